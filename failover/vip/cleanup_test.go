package vip

import (
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestCleanUpTakesOnlyWhatAKineshimHasLeft(t *testing.T) {
	h := newFakeHost("192.168.1.10/24", "192.168.1.50/32", "192.168.1.51/32", "192.168.1.52/32", "192.168.1.53/32")
	for i, leased := range []bool{false, true, true, false, true} { // the last is another cluster's
		h.all[1].Addresses[i].Leased = leased
	}
	vips := []VIP{
		{Address: netip.MustParsePrefix("192.168.1.50/24")},
		{Address: netip.MustParsePrefix("192.168.1.51/32"), HookOnly: true},
		{Address: netip.MustParsePrefix("192.168.1.52/32")},
		{Address: netip.MustParsePrefix("192.168.1.99/32")},
	}
	removed, err := CleanUp(h, vips)
	if err != nil || len(removed) != 1 {
		t.Errorf("removed %v, %v", removed, err)
	}
	if d := cmp.Diff([]string{"ip addr del 192.168.1.50/32 dev eth0"}, h.done); d != "" {
		t.Error(d)
	}
}

// The real kernel: an address on lease goes at once, one that is configured stays.
func TestCleanUpOnTheRealKernel(t *testing.T) {
	s := newSegment(t, "a")
	vip, fixed := netip.MustParseAddr("10.77.0.50"), netip.MustParseAddr("10.77.0.51")
	s.ip("a", "addr add 10.77.0.50/32 dev eth0 scope host valid_lft 3 preferred_lft 3")
	s.ip("a", "addr add 10.77.0.51/32 dev eth0")
	cmd := exec.Command("ip", "netns", "exec", s.ns("a"), os.Args[0])
	cmd.Env = append(os.Environ(), helperEnv+"=cleanup 10.77.0.50 10.77.0.51")
	b, err := cmd.CombinedOutput()
	out := string(b)
	if err != nil {
		t.Fatal(err, out)
	}
	if s.has("a", vip) || !s.has("a", fixed) {
		t.Errorf("after %q: %s", out, s.ip("a", "-o addr"))
	}
	if out != "removed 10.77.0.50/32 from eth0\n" { // and not the kernel, in the nick of time
		t.Errorf("it says %q", out)
	}
}

func cleanUpHelper(arg string) {
	var vips []VIP
	for _, a := range strings.Fields(arg) {
		vips = append(vips, VIP{Address: netip.MustParsePrefix(a + "/32")})
	}
	var k Kernel
	defer k.Close()
	removed, err := CleanUp(&k, vips)
	if err != nil {
		fmt.Println(err)
	}
	for _, p := range removed {
		fmt.Printf("removed %s from %s\n", p.Address, p.Interface)
	}
}
