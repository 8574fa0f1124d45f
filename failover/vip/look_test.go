package vip

import (
	"errors"
	"net/netip"
	"testing"
	"testing/synctest"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func TestLookAsksWhoHasTheAddressAndChangesNothing(t *testing.T) {
	v := VIP{Address: netip.MustParsePrefix(testVIP + "/32")}
	asked := []string{"3 × arping -D " + testVIP}
	for name, tc := range map[string]struct {
		change func(*fakeHost)
		vip    VIP
		want   Sight
		err    error
		done   []string
	}{
		"free":              {want: Sight{Up: true, Subnet: true}, done: asked},
		"somebody has it":   {change: func(h *fakeHost) { h.owner = strangerMAC }, want: Sight{Up: true, Subnet: true, Claims: []string{strangerMAC}}, done: asked},
		"a kineshim's own":  {change: func(h *fakeHost) { h.add(testVIP+"/32", true) }, want: Sight{Up: true, Subnet: true, Held: true}},
		"configured here":   {change: func(h *fakeHost) { h.add(testVIP+"/24", false) }, want: Sight{Up: true, Subnet: true}, err: ErrNotOurs},
		"no carrier":        {change: func(h *fakeHost) { h.all[1].Up = false }, want: Sight{Subnet: true}},
		"not permitted":     {change: func(h *fakeHost) { h.able = ErrNotPermitted }, want: Sight{Up: true, Subnet: true}, err: ErrNotPermitted},
		"no such interface": {vip: VIP{Address: v.Address, Interface: "eth9"}, err: ErrNoInterface},
		"a named interface without its subnet": {
			vip: VIP{Address: netip.MustParsePrefix("203.0.113.9/32"), Interface: "eth0"}, want: Sight{Up: true}, done: []string{"3 × arping -D 203.0.113.9"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newFakeHost("192.0.2.10/24")
				if tc.change != nil {
					tc.change(h)
				}
				if !tc.vip.Address.IsValid() {
					tc.vip = v
				}
				got, err := Look(t.Context(), h, tc.vip)
				if !errors.Is(err, tc.err) || err == nil != (tc.err == nil) {
					t.Errorf("error %v, want %v", err, tc.err)
				}
				if got.Place.Interface == "" != errors.Is(err, ErrNoInterface) {
					t.Errorf("the place is %+v", got.Place)
				}
				got.Place = Place{}
				if d := cmp.Diff(tc.want, got, cmpopts.EquateComparable(netip.Prefix{})); d != "" {
					t.Error(d)
				}
				if d := cmp.Diff(tc.done, h.log()); d != "" {
					t.Errorf("done to the machine: %s", d)
				}
			})
		})
	}
}

// add puts an address on the link.
func (h *fakeHost) add(prefix string, leased bool) {
	h.all[1].Addresses = append(h.all[1].Addresses, HostAddress{netip.MustParsePrefix(prefix), leased})
}
