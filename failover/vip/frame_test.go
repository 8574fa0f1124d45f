package vip

import (
	"encoding/hex"
	"net/netip"
	"strings"
	"testing"
)

func placeOf(addr string) Place {
	a := netip.MustParseAddr(addr)
	return Place{Address: netip.PrefixFrom(a, a.BitLen()), Interface: "eth0", Index: 2, MAC: hostMAC}
}

// The checksums are checked by their sum; that a kernel accepts them, TestNeighboursMove shows.
func TestFrames(t *testing.T) {
	v4, v6 := placeOf("192.0.2.50"), placeOf("2001:db8::50")
	for name, c := range map[string]struct {
		frames [][]byte
		want   []string
	}{
		"ARP probe": {probeFrames(v4), []string{"ffffffffffff 02000000000a 0806 0001 0800 06 04 0001 02000000000a 00000000 000000000000 c0000232"}},
		"ARP announcements": {announceFrames(v4), []string{
			"ffffffffffff 02000000000a 0806 0001 0800 06 04 0001 02000000000a c0000232 000000000000 c0000232",
			"ffffffffffff 02000000000a 0806 0001 0800 06 04 0002 02000000000a c0000232 ffffffffffff c0000232"}},
		"neighbour solicitation": {probeFrames(v6), []string{
			"3333ff000050 02000000000a 86dd 60000000 0018 3a ff 00000000000000000000000000000000 ff0200000000000000000001ff000050 87 00 ???? 00000000 20010db8000000000000000000000050"}},
		"neighbour advertisement": {announceFrames(v6), []string{
			"333300000001 02000000000a 86dd 60000000 0020 3a ff 20010db8000000000000000000000050 ff020000000000000000000000000001 88 00 ???? 20000000 20010db8000000000000000000000050 0201 02000000000a"}},
	} {
		if len(c.frames) != len(c.want) {
			t.Errorf("%s: %d frames", name, len(c.frames))
			continue
		}
		for i, f := range c.frames {
			got, want := hex.EncodeToString(f), strings.ReplaceAll(c.want[i], " ", "")
			if at := strings.Index(want, "????"); at >= 0 {
				got, want = got[:at]+got[at+4:], want[:at]+want[at+4:]
			}
			if got != want {
				t.Errorf("%s:\n got %s\nwant %s", name, got, want)
			}
			if f[12] == 0x86 && icmpChecksum([16]byte(f[22:38]), [16]byte(f[38:54]), f[54:]) != 0 {
				t.Errorf("%s: the checksum is wrong", name)
			}
		}
	}
}

func TestClaims(t *testing.T) {
	for _, addr := range []string{"192.0.2.50", "2001:db8::50"} {
		p := placeOf(addr)
		for _, f := range announceFrames(p) {
			if c, ok := parseClaim(f); !ok || c.Address != netip.MustParseAddr(addr) || c.MAC != hostMAC.String() {
				t.Errorf("%s: %v, %v", addr, c, ok)
			}
			for n := range f { // cut short anywhere, it is no claim of another address
				if c, ok := parseClaim(f[:n]); ok && (c.Address != netip.MustParseAddr(addr) || c.MAC != hostMAC.String()) {
					t.Errorf("%s, %d bytes: %v", addr, n, c)
				}
			}
		}
		for _, f := range probeFrames(p) {
			if c, ok := parseClaim(f); ok {
				t.Errorf("a probe claims %v", c)
			}
		}
	}
}
