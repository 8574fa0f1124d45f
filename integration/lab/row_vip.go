package lab

import (
	"context"
	"fmt"
	"net"
	"strings"
	"time"

	"kineshim/integration/cluster"
	"kineshim/integration/lab/site"
	"kineshim/proto"
)

// giveVIPs puts the virtual addresses on a host for good, as a careless administrator does; take removes them.
func (t *Trial) giveVIPs(host string) error { return t.handVIPs("add", host) }

func (t *Trial) takeVIPs(host string) error { return t.handVIPs("del", host) }

func (t *Trial) handVIPs(verb, host string) error {
	for _, vip := range VIPs {
		args := []string{"addr", verb, fmt.Sprintf("%s/%d", vip, vip.BitLen()), "dev", site.Interface}
		if vip.Is6() && verb == "add" {
			args = append(args, "nodad")
		}
		if out, err := t.site.Run(host, "", "ip", args...); err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
	}
	return nil
}

// mac is the host's hardware address.
func (t *Trial) mac(host string) string {
	var mac string
	t.Must(t.site.In(host, func() error {
		i, err := net.InterfaceByName(site.Interface)
		if err == nil {
			mac = i.HardwareAddr.String()
		}
		return err
	}))
	return mac
}

// vipsSay waits until the node's status says what is wanted of all its virtual addresses. The function says what is amiss of one, or nothing.
func (t *Trial) vipsSay(node, what string, amiss func(*proto.VipState) string) {
	t.Until(what, serveWithin, func(context.Context) string {
		vips := t.State(node).GetVips()
		if len(vips) != len(VIPs) {
			return fmt.Sprintf("%d virtual addresses", len(vips))
		}
		for _, v := range vips {
			if why := amiss(v); why != "" {
				return v.GetAddress() + ": " + why
			}
		}
		return ""
	})
	t.timeline.note("the status of %s says of %s: %q", node, VIPs[0], t.State(node).GetVips()[0].GetProblem())
}

// problem is amiss for vipsSay: the problem that is told must have the text in it; "" is no problem.
func problem(text string) func(*proto.VipState) string {
	return func(v *proto.VipState) string {
		if text == "" && v.GetProblem() != "" || !strings.Contains(v.GetProblem(), text) {
			return fmt.Sprintf("problem %q", v.GetProblem())
		}
		return ""
	}
}

// vipTakenByForeigner: the addresses are kept by the node that has them, and not taken by one that has not.
func vipTakenByForeigner(t *Trial) {
	mac := t.mac(foreign)
	t.Blow("a foreign host, "+mac+", has the virtual addresses too", func() error { return t.giveVIPs(foreign) })
	t.vipsSay(t.A, "A, which has them, tells of it", problem(mac))
	t.vipsSay(t.B, "B, which has not, tells of it", problem(mac))
	for _, node := range []string{t.A, t.B} {
		if t.lastLine(node, "another host has the virtual address") == "" {
			t.Failf("the log of %s does not tell of the foreign host", node)
		}
	}
	t.OnlyServes(t.A, aWhile)
	t.Writes(t.B)
	t.OnlyHasVIPs(t.A)

	t.switchOver()
	t.vipsSay(t.B, "B does not take them", problem("is not taken while that one answers"))
	for end := time.Now().Add(aWhile); time.Now().Before(end); t.Run(sampleEvery) {
		for _, node := range []string{t.A, t.B} {
			for _, v := range t.State(node).GetVips() {
				if v.GetHeld() {
					t.Fatalf("%s has taken %s, which the foreign host has", node, v.GetAddress())
				}
			}
		}
	}
	t.OnlyServes(t.B, time.Second)
	t.Writes(t.A)
	free := time.Now()
	t.Heal("the foreign host gives them up", func() error { return t.takeVIPs(foreign) })
	t.OnlyHasVIPs(t.B)
	t.timeline.note("B has taken them %s after they were free", time.Since(free).Round(time.Millisecond))
	t.vipsSay(t.B, "B has nothing to tell any more", problem(""))
	t.Writes(VIP)
}

// bothHaveVIPs: an administrator has put the addresses on the standby, and the clients are led there. kineshim leaves them alone, as it has not put them
// there, and says so; whoever asks the standby at such an address gets no answer, or the primary's.
func bothHaveVIPs(t *Trial) {
	t.vips.excuse(t.B)
	lead := func(verb string) error {
		for _, vip := range VIPs {
			args := []string{"neigh", verb, vip.String(), "dev", site.Interface}
			if verb == "replace" {
				args = append(args, "lladdr", t.mac(t.B), "nud", "permanent")
			}
			if _, err := t.site.Run(Client, "", "ip", args...); err != nil {
				return err
			}
		}
		return nil
	}
	t.Blow("B has the virtual addresses too, by hand, and the clients are led to it", func() error {
		if err := t.giveVIPs(t.B); err != nil {
			return err
		}
		return lead("replace")
	})
	t.vipsSay(t.B, "B tells of it", problem("configured on this machine already"))
	t.OnlyServes(t.A, severalLeases)
	t.Writes(t.B)
	t.vipsSay(t.A, "A has them, and takes B for no stranger", func(v *proto.VipState) string {
		if !v.GetHeld() || v.GetProblem() != "" {
			return fmt.Sprintf("held: %v; problem %q", v.GetHeld(), v.GetProblem())
		}
		return ""
	})
	if told := t.lastLine(t.A, t.mac(t.B)); strings.Contains(told, "neither of the data nodes") {
		t.Failf("A takes the standby for a stranger: %s", told)
	}
	t.Heal("they are taken off B", func() error {
		if err := lead("del"); err != nil {
			return err
		}
		return t.takeVIPs(t.B)
	})
	t.OnlyHasVIPs(t.A)
	t.Writes(VIP)
	t.vipsSay(t.B, "B has nothing to tell any more", problem(""))
	t.switchOver()
	t.OnlyHasVIPs(cluster.Other(t.A))
	t.Writes(VIP)
}
