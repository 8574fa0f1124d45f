package site

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Interface is the name of each host's network interface.
const Interface = "eth0"

// Cut is a direction in which the switch drops packets.
type Cut struct {
	From, To string
	// Port, if not 0, is the TCP port at To to which alone the cut applies.
	Port int
	// BytesPerSecond, if not 0, is what still gets through.
	BytesPerSecond int
	// Percent, if not 0, is how many of 100 packets are dropped, at random. 0: all.
	Percent int
}

func (c Cut) rule() string {
	r := fmt.Sprintf("iifname %q oifname %q ", c.From, c.To)
	if c.Port != 0 {
		r += fmt.Sprintf("ether type ip tcp dport %d ", c.Port)
	}
	if c.BytesPerSecond != 0 {
		r += fmt.Sprintf("limit rate over %d kbytes/second ", max(1, c.BytesPerSecond>>10))
	}
	if c.Percent != 0 {
		r += fmt.Sprintf("numgen random mod 100 < %d ", c.Percent)
	}
	return r + "drop"
}

// Cut adds cuts, all at one moment.
func (s *Site) Cut(cuts ...Cut) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range cuts {
		s.cuts[c.rule()] = c
	}
	return s.apply()
}

// SetCuts makes these the only cuts, all at one moment.
func (s *Site) SetCuts(cuts ...Cut) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.cuts)
	for _, c := range cuts {
		s.cuts[c.rule()] = c
	}
	return s.apply()
}

// Heal removes all cuts, at one moment.
func (s *Site) Heal() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.cuts)
	return s.apply()
}

// apply makes the switch's rules what cuts says, in one transaction. s.mu is held.
func (s *Site) apply() error {
	var b strings.Builder
	b.WriteString("add table bridge lab\ndelete table bridge lab\ntable bridge lab {\n\tchain forward {\n\t\ttype filter hook forward priority 0; policy accept;\n")
	for _, rule := range slices.Sorted(maps.Keys(s.cuts)) {
		b.WriteString("\t\t" + rule + "\n")
	}
	b.WriteString("\t}\n}\n")
	_, err := s.Run(Switch, b.String(), "nft", "-f", "-")
	return err
}

// Both is a cut in both directions.
func Both(x, y string) []Cut { return []Cut{{From: x, To: y}, {From: y, To: x}} }

// Around cuts a host off from all the others named.
func Around(host string, others ...string) []Cut {
	var out []Cut
	for _, o := range others {
		if o != host {
			out = append(out, Both(host, o)...)
		}
	}
	return out
}

// SetInterface takes the host's own interface down, or up again.
func (s *Site) SetInterface(host string, up bool) error {
	_, err := command("ip", "-n", s.namespace(host), "link", "set", "dev", Interface, state(up))
	if err == nil && up { // the kernel removes IPv6 addresses when an interface goes down
		_, err = command("ip", "-n", s.namespace(host), "addr", "replace", s.Address6(host)+"/64", "dev", Interface, "nodad")
	}
	return err
}

// SetPorts takes all the switch's ports down, as when it reboots, or up again: the hosts see their links without carrier.
func (s *Site) SetPorts(up bool) error {
	for _, h := range s.hosts {
		if err := s.SetPort(h, up); err != nil {
			return err
		}
	}
	return nil
}

// SetPort takes the switch's port of one host down, or up again: its cable is pulled.
func (s *Site) SetPort(host string, up bool) error {
	_, err := command("ip", "-n", s.namespace(Switch), "link", "set", "dev", host, state(up))
	return err
}

func state(up bool) string {
	if up {
		return "up"
	}
	return "down"
}
