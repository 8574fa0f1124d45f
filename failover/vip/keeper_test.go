package vip

import (
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

const (
	putLine    = "ip addr replace 192.0.2.50/32 dev eth0 valid_lft 2"
	delLine    = "ip addr del 192.0.2.50/32 dev eth0"
	probeLine  = "arping -D 192.0.2.50"
	tellLine   = "arping -U 192.0.2.50"
	quickEnter = 200 * time.Millisecond
)

func TestStaleAddressIsRemovedAtStart(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		if diff := cmp.Diff([]string{delLine, probeLine}, r.host.log()); diff != "" {
			t.Error(diff)
		}
		if s := r.Status()[0]; s.Held || s.Problem != "" || s.Interface != "eth0" || s.MAC != hostMAC.String() {
			t.Errorf("%+v", s)
		}
	})
}

func TestAddressIsTakenAnnouncedAndRenewed(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.host.log()
		r.role.set(1)
		r.after(0)
		if diff := cmp.Diff([]string{putLine, tellLine, probeLine}, r.host.log()); diff != "" { // who has it was asked a second ago, and is asked again
			t.Error(diff)
		}
		if s := r.Status()[0]; !s.Held || s.Takeovers != 1 {
			t.Errorf("%+v", s)
		}
		r.after(60 * time.Second)
		if n := r.host.count(tellLine); n != len(announceAt)-1+1 {
			t.Errorf("announced %d times in the minute after the first", n)
		}
		if n := r.host.count(putLine); n < 120 {
			t.Errorf("renewed %d times in a minute", n)
		}
		if !r.host.has(testVIP) {
			t.Error("the kernel has removed it")
		}
	})
}

// As its own subnet's, the kernel would not take it beside the machine's own address.
func TestAddressIsASingleHostsWhateverItsPrefix(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.host.log()
		r.role.set(1)
		r.after(0)
		if got := r.host.log(); len(got) == 0 || got[0] != putLine {
			t.Errorf("%v, want %s first", got, putLine)
		}
	}, func(c *Config) { c.VIPs[0].Address = netip.MustParsePrefix(testVIP + "/24") })
}

// Without the other node's hardware address, an earlier answer may have been that one's: it is asked anew, and then taken.
func TestAddressIsProbedBeforeItIsTaken(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.host.log()
		r.role.set(1)
		r.after(quickEnter)
		if diff := cmp.Diff([]string{"2 × " + probeLine, putLine, tellLine}, r.host.log()); diff != "" {
			t.Error(diff)
		}
	}, func(c *Config) { c.PeerMACs = nil })
}

func TestAddressLeavesAtOnceWithTheRole(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.role.set(1)
		r.after(time.Second)
		r.host.log()
		r.role.set(0)
		r.after(0)
		if diff := cmp.Diff([]string{delLine}, r.host.log()); diff != "" || r.host.has(testVIP) || r.Status()[0].Held {
			t.Error("still there", diff)
		}
	})
}

func TestRoleIsSeenByTheClockToo(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.role.epoch.Store(1) // nobody tells
		r.after(quickEnter + lookEvery)
		if !r.host.has(testVIP) {
			t.Fatal("not taken")
		}
		r.role.epoch.Store(0)
		r.after(lookEvery)
		if r.host.has(testVIP) {
			t.Error("not removed")
		}
	})
}

func TestAddressIsRemovedAtTheEnd(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.role.set(1)
		r.after(time.Second)
		r.stop()
		if r.host.has(testVIP) {
			t.Error("left behind")
		}
	})
}

// A process that is stopped between its look at the role and its system call must not leave the address, nor announce it.
func TestRoleLostDuringTheCallTakesTheAddressBack(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.host.log()
		r.host.set(func(h *fakeHost) { h.after = func() { r.role.epoch.Store(0) } })
		r.role.set(1)
		r.after(quickEnter)
		if r.host.has(testVIP) || r.host.count(tellLine) != 0 {
			t.Error(r.host.log())
		}
	})
}

func TestForeignHolderIsReportedAndNotFought(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.host.set(func(h *fakeHost) { h.owner = strangerMAC })
		r.after(2 * idleEvery)
		if s := r.Status()[0]; s.ForeignMAC != strangerMAC || !strings.Contains(s.Problem, strangerMAC) {
			t.Errorf("not told before the address is needed: %+v", s)
		}
		r.role.set(1)
		r.after(10 * time.Second)
		s := r.Status()[0]
		if s.Held || s.ForeignMAC != strangerMAC || !strings.Contains(s.Problem, strangerMAC) || s.Conflicts != 1 {
			t.Errorf("%+v", s)
		}
		if r.host.count(putLine) != 0 || r.host.count(tellLine) != 0 {
			t.Error("fought")
		}
		if n := r.host.count(probeLine); n < 16 {
			t.Errorf("asked only %d times whether it is free", n)
		}
		r.host.set(func(h *fakeHost) { h.owner = "" })
		r.after(retryEvery + quickEnter)
		if s := r.Status()[0]; !s.Held || s.Problem != "" || s.ForeignMAC != "" {
			t.Errorf("not taken when it was free: %+v", s)
		}
	})
}

func TestForeignHolderIsFoundWhileHolding(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.role.set(1)
		r.after(time.Second)
		r.host.log()
		r.host.set(func(h *fakeHost) { h.owner = strangerMAC })
		r.after(watchEvery + lookEvery)
		s := r.Status()[0]
		if !s.Held || s.ForeignMAC != strangerMAC || !strings.Contains(s.Problem, strangerMAC) {
			t.Errorf("%+v", s)
		}
		if n := r.host.count(tellLine); n > len(announceAt) {
			t.Errorf("fought: announced %d times", n)
		}
		r.host.set(func(h *fakeHost) { h.owner = "" })
		r.after(claimLasts + lookEvery)
		if s := r.Status()[0]; s.ForeignMAC != "" || s.Problem != "" {
			t.Errorf("%+v", s)
		}
	})
}

func TestTheOtherNodesOldLeaseDelaysNothing(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.host.set(func(h *fakeHost) { h.owner = peerMAC })
		r.role.set(1)
		r.after(quickEnter)
		if s := r.Status()[0]; !s.Held || s.ForeignMAC != "" || s.Conflicts != 0 {
			t.Errorf("%+v", s)
		}
		// Neighbours that have heard the old holder's kernel are told again.
		r.after(6 * time.Second)
		r.host.log()
		r.after(watchEvery)
		if r.host.count(tellLine) == 0 {
			t.Error("the other node's answer was left standing")
		}
	})
}

// A standby that has just started does not know the other node's hardware address yet.
func TestStandbyTakesNobodyForAStrangerBeforeItKnowsTheOtherNode(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.host.heard(Claim{netip.MustParseAddr(testVIP), strangerMAC})
		r.after(time.Second)
		if s := r.Status()[0]; s.Conflicts != 0 {
			t.Errorf("%+v", s)
		}
	}, func(c *Config) { c.PeerMACs = func(netip.Addr) []string { return nil } })
}

func TestLinkThatComesBackIsAnnouncedOn(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.role.set(1)
		r.after(10 * time.Second)
		r.host.links(Link{Index: 2, Up: false})
		r.after(time.Second)
		if s := r.Status()[0]; !strings.Contains(s.Problem, "no carrier") {
			t.Errorf("%+v", s)
		}
		r.host.log()
		r.host.links(Link{Index: 7, Up: true})
		r.after(0)
		if r.host.count(tellLine) != 0 {
			t.Error("another interface's return was taken for ours")
		}
		r.host.links(Link{Index: 2, Up: true})
		r.after(0)
		if log := r.host.log(); len(log) < 2 || log[len(log)-2] != putLine || log[len(log)-1] != tellLine {
			t.Error(log)
		}
	})
}

// The interface loses its addresses, and with them the subnet of the virtual one, while this node holds that: it is taken away where it was put when the role
// ends, and the node is ready for the next time.
func TestAddressLeavesThoughItsSubnetHasGone(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.role.set(1)
		r.after(time.Second)
		addresses := r.host.all[1].Addresses
		interfaces := func(addresses []HostAddress) []Interface {
			i := r.host.all[1]
			i.Addresses = addresses
			return []Interface{r.host.all[0], i}
		}
		r.host.set(func(h *fakeHost) { h.broken, h.all = true, interfaces(nil) })
		r.after(time.Second)
		if s := r.Status()[0]; !s.Held || !strings.Contains(s.Problem, "in no subnet") {
			t.Errorf("%+v", s)
		}
		r.role.set(0)
		r.after(time.Second)
		if r.host.has(testVIP) {
			t.Error("the address is there after the role")
		}
		r.host.set(func(h *fakeHost) { h.all = interfaces(addresses) })
		r.after(2 * idleEvery)
		if s := r.Status()[0]; s.Held || s.Problem != "" || s.Interface != "eth0" {
			t.Errorf("afterwards: %+v", s)
		}
	})
}

func TestLapseOfTheRoleNeedsNoProbe(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.role.set(1)
		r.after(time.Second)
		r.role.set(0)
		r.after(100 * time.Millisecond)
		r.host.log()
		r.role.set(1)
		r.after(0)
		if diff := cmp.Diff([]string{putLine, tellLine}, r.host.log()); diff != "" {
			t.Error(diff)
		}
	})
}

func TestFailedRenewalIsTriedAgainAndReported(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.role.set(1)
		r.after(time.Second)
		r.host.set(func(h *fakeHost) { h.fail["ip addr replace"] = errBroken })
		r.after(3 * time.Second)
		if s := r.Status()[0]; s.Held || !strings.Contains(s.Problem, errBroken.Error()) {
			t.Errorf("%+v", s)
		}
		r.host.set(func(h *fakeHost) { clear(h.fail) })
		r.after(retryEvery + quickEnter)
		if s := r.Status()[0]; !s.Held || s.Problem != "" {
			t.Errorf("%+v", s)
		}
	})
}

func TestFailedAnnouncementDoesNotKeepFromRenewing(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.role.set(1)
		r.after(time.Second)
		r.host.set(func(h *fakeHost) { h.fail["arping"] = errBroken })
		for range 200 {
			r.after(100 * time.Millisecond)
			if !r.host.has(testVIP) {
				t.Fatal("lost")
			}
		}
		if s := r.Status()[0]; !s.Held || !strings.Contains(s.Problem, errBroken.Error()) {
			t.Errorf("%+v", s)
		}
	})
}

// What cannot be said is not tried a thousand times a second.
func TestKeeperWaitsWhileNothingCanBeSaid(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.role.set(1)
		r.after(time.Second)
		r.host.set(func(h *fakeHost) { h.fail["arping"] = errBroken })
		r.after(time.Minute)
		looks := r.host.looks()
		r.after(time.Minute)
		if n := r.host.looks() - looks; n > 600 {
			t.Errorf("the interfaces were looked at %d times in a minute", n)
		}
	})
}

func TestFailedRemovalIsTriedAgain(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.role.set(1)
		r.after(time.Second)
		r.host.set(func(h *fakeHost) { h.fail["ip addr del"] = errBroken })
		r.role.set(0)
		r.after(time.Second)
		if s := r.Status()[0]; !s.Held || s.Problem == "" {
			t.Errorf("%+v", s)
		}
		r.host.set(func(h *fakeHost) { clear(h.fail) })
		r.after(time.Second)
		if s := r.Status()[0]; s.Held || s.Problem != "" {
			t.Errorf("%+v", s)
		}
	})
}

// The other data node must know whose answers it hears: it is no stranger's.
func TestNodeWithTheAddressByHandSaysWhichMACAnswers(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.host.set(func(h *fakeHost) {
			h.all[1].Addresses = append(h.all[1].Addresses, HostAddress{Prefix: netip.MustParsePrefix(testVIP + "/32")})
		})
		r.after(2 * idleEvery)
		if s := r.Status()[0]; s.Held || s.MAC != hostMAC.String() || !strings.Contains(s.Problem, "configured on this machine already") {
			t.Errorf("%+v", s)
		}
		r.role.set(1)
		r.after(time.Second)
		if s := r.Status()[0]; s.Held || r.host.count(putLine) != 0 || r.host.count(tellLine) != 0 {
			t.Errorf("it was taken: %+v", s)
		}
	})
}

func TestMissingCapabilityIsSaidBeforeTheAddressIsNeeded(t *testing.T) {
	inBubble(t, func(t *testing.T, r *rig) {
		r.host.set(func(h *fakeHost) { h.able = ErrNotPermitted })
		r.after(idleEvery)
		if s := r.Status()[0]; !strings.Contains(s.Problem, "not permitted") {
			t.Errorf("%+v", s)
		}
		r.role.set(1)
		r.after(time.Second)
		if r.host.count(putLine) != 0 {
			t.Error("tried")
		}
	})
}

func TestConnectionsToTheAddressAreCutBeforeItLeaves(t *testing.T) {
	var all Connections
	inBubble(t, func(t *testing.T, r *rig) {
		cut := make(chan bool, 1)
		r.keepers[0].cut = func() { offer(cut, r.host.has(testVIP)) }
		r.role.set(1)
		r.after(time.Second)
		r.role.set(0)
		r.after(0)
		if !<-cut {
			t.Error("cut after the address had left")
		}
	}, func(c *Config) { c.Connections = &all })
}

func TestWhereAnAddressGoes(t *testing.T) {
	mk := func(name string, index int, addrs ...HostAddress) Interface {
		return Interface{Name: name, Index: index, Addresses: addrs}
	}
	on := func(s string) HostAddress { return HostAddress{Prefix: netip.MustParsePrefix(s)} }
	leased := func(s string) HostAddress { return HostAddress{netip.MustParsePrefix(s), true} }
	wide, narrow := mk("eth0", 2, on("10.0.0.1/8")), mk("eth1", 3, on("10.1.2.3/24"))
	for _, c := range []struct {
		name, vip, iface string
		all              []Interface
		want             string // the interface, or a part of the error
	}{
		{"the longest subnet", "10.1.2.50", "", []Interface{wide, narrow}, "eth1"},
		{"the only one", "10.9.9.9", "", []Interface{wide, narrow}, "eth0"},
		{"none", "192.0.2.1", "", []Interface{wide, narrow}, "192.0.2.1 is in no subnet of this machine: eth0 (10.0.0.1/8), eth1 (10.1.2.3/24); set its interface"},
		{"two", "10.1.2.50", "", []Interface{mk("a", 5, on("10.1.2.4/24")), narrow}, "in the subnet of several: a (10.1.2.4/24), eth1 (10.1.2.3/24)"},
		{"the chosen one", "192.0.2.1", "eth0", []Interface{wide, narrow}, "eth0"},
		{"the chosen one is not there", "192.0.2.1", "eth7", []Interface{wide}, "has no interface eth7; there are eth0 (10.0.0.1/8)"},
		{"its own lease is no subnet", "10.1.2.50", "", []Interface{mk("a", 5, leased("10.1.2.50/24")), narrow}, "eth1"},
		{"a host's address is no subnet", "10.1.2.50", "", []Interface{mk("a", 5, on("10.1.2.50/32"))}, "no subnet"},
		{"somebody has configured it for good", "10.1.2.50", "", []Interface{narrow, mk("a", 5, on("10.1.2.50/32"))}, "10.1.2.50/32 on a, and not by kineshim"},
		{"nothing but loopback", "10.1.2.50", "", []Interface{{Name: "lo", Loopback: true, Addresses: []HostAddress{on("10.1.2.1/24")}}}, "none but loopback"},
		{"IPv6", "2001:db8::50", "", []Interface{wide, mk("eth2", 4, on("fe80::1/64"), on("2001:db8::1/64"))}, "eth2"},
	} {
		t.Run(c.name, func(t *testing.T) {
			a := netip.MustParseAddr(c.vip)
			got, err := findPlace(VIP{Address: netip.PrefixFrom(a, a.BitLen()), Interface: c.iface}, c.all)
			if err != nil && !strings.Contains(err.Error(), c.want) || err == nil && got.Interface != c.want {
				t.Errorf("%v, %v; want %s", got.Interface, err, c.want)
			}
		})
	}
}
