package vip

import "errors"

// CleanUp takes from the machine the virtual addresses that a kineshim which was killed has left, and returns where they were. The kernel would
// remove them soon by itself. An address that somebody has configured here for good stays, and so does all that a hook is to move.
func CleanUp(h Host, vips []VIP) (removed []Place, err error) {
	all, err := h.Interfaces()
	if err != nil {
		return nil, err
	}
	for _, v := range vips {
		for _, i := range all {
			for _, a := range i.Addresses {
				if v.HookOnly || !a.Leased || a.Addr() != v.Address.Addr() {
					continue
				}
				p := Place{Address: a.Prefix, Interface: i.Name, Index: i.Index, MAC: i.MAC}
				if rerr := h.Remove(p); rerr != nil {
					err = errors.Join(err, rerr)
					continue
				}
				removed = append(removed, p)
			}
		}
	}
	return removed, err
}
