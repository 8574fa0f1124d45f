package vip

import (
	"net"
	"net/netip"
	"testing"
)

// FuzzClaim: whoever is on the segment can send any frame. What is read as a claim names an address and a hardware address of six bytes.
func FuzzClaim(f *testing.F) {
	f.Add([]byte{})
	arp := make([]byte, 42)
	copy(arp[12:], []byte{8, 6, 0, 1, 8, 0, 6, 4, 0, 2, 2, 0, 0, 0, 0, 1, 192, 0, 2, 1})
	f.Add(arp)
	nd := make([]byte, 14+40+32)
	nd[12], nd[13], nd[14+6], nd[14+7], nd[14+40] = 0x86, 0xdd, 58, 255, icmpNeighbourAdvertisement
	copy(nd[14+40+24:], []byte{2, 1, 2, 0, 0, 0, 0, 9})
	f.Add(nd)
	f.Add(nd[:14+40+9])
	nd[14+40+25] = 0
	f.Add(nd)
	f.Fuzz(func(t *testing.T, b []byte) {
		c, ok := parseClaim(b)
		if !ok {
			return
		}
		if !c.Address.IsValid() || c.Address == netip.IPv4Unspecified() {
			t.Fatalf("%v is no address", c.Address)
		}
		if mac, err := net.ParseMAC(c.MAC); err != nil || len(mac) != 6 {
			t.Fatalf("%q is no hardware address", c.MAC)
		}
	})
}
