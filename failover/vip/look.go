package vip

import (
	"context"
	"errors"
	"net/netip"
	"slices"
	"sync"
	"time"
)

// lookProbes questions are asked while a Look listens for lookFor: nobody waits, so there is more time than a Runner takes.
const (
	lookFor    = time.Second
	lookProbes = 3
)

// Sight is how it stands with a virtual address on this machine.
type Sight struct {
	// Place is the interface that would take it, Up whether that has a carrier.
	Place Place
	Up    bool
	// Subnet: the address is in one of the interface's subnets. It need not be where the operator has named the interface.
	Subnet bool
	// Held: a kineshim of this machine has it now. Its neighbours are not asked then.
	Held bool
	// Claims are the hardware addresses of the other hosts that answer for it, in order; the other data node may be one of them.
	Claims []string
}

// Look finds the interface that would take the address and asks the neighbours who has it, for lookFor or until ctx ends. It claims nothing and changes
// nothing. The error is ErrNoInterface, ErrNotOurs, or says why nobody could be asked; the Sight then holds what is known all the same.
func Look(ctx context.Context, h Host, v VIP) (Sight, error) {
	all, err := h.Interfaces()
	if err != nil {
		return Sight{}, err
	}
	p, err := findPlace(v, all)
	s := Sight{Place: p}
	for _, i := range all {
		s.Held = s.Held || slices.ContainsFunc(i.Addresses, func(a HostAddress) bool { return a.Leased && a.Addr() == v.Address.Addr() })
		if i.Index == p.Index && i.Name == p.Interface {
			s.Up, s.Subnet = i.Up, subnetOf(i, v.Address.Addr()) >= 0
		}
	}
	if err != nil || s.Held || !s.Up {
		return s, err
	}
	if err := h.Able(); err != nil {
		return s, err
	}
	s.Claims, err = claims(ctx, h, p)
	return s, err
}

// claims are who answers when the neighbours are asked.
func claims(ctx context.Context, h Host, p Place) ([]string, error) {
	var mu sync.Mutex // guards heard
	heard := map[netip.Addr][]string{}
	segment, err := h.Open(p, func(c Claim) {
		mu.Lock()
		defer mu.Unlock()
		if !slices.Contains(heard[c.Address], c.MAC) {
			heard[c.Address] = append(heard[c.Address], c.MAC)
		}
	})
	if err != nil {
		return nil, err
	}
	for n := 0; n < lookProbes && err == nil && ctx.Err() == nil; n++ {
		err = segment.Probe()
		t := time.NewTimer(lookFor / lookProbes)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
		}
	}
	err = errors.Join(err, segment.Close())
	mu.Lock()
	defer mu.Unlock()
	return slices.Sorted(slices.Values(heard[p.Address.Addr()])), err
}
