// Package vip keeps virtual addresses on the machine while its node serves, and takes them away when it does not.
//
// An address is put on an interface for leaseFor only, and renewed while the role holds: the kernel itself removes it from a node
// whose process was killed or is frozen. It is never the source of a connection that the node opens, and the neighbours are told
// where it is. A host that has the address and is neither of the two data nodes is reported, not fought.
//
// What the role is, the caller knows: see Role. Nothing here makes a node primary or keeps it from serving, and nothing waits for
// what happens here.
package vip

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"time"
)

const (
	// leaseFor is how long the kernel keeps an address that is not renewed. The kernel counts in whole seconds and looks at IPv4 addresses once a
	// second (net/ipv4/devinet.c, check_lifetime), so one is gone 2 to 3.3 s after the last renewal. The promise is 4 s.
	leaseFor = 2 * time.Second
	// renewEvery leaves four renewals to fail, or the process to get no CPU for 1.6 s, before the address is lost by accident.
	renewEvery = 400 * time.Millisecond
	// lookEvery is how often the role is looked at, by the clock, when nothing tells of a change.
	lookEvery = 50 * time.Millisecond
)

// Role says whether this node may hold the addresses.
type Role interface {
	// Holds says so by the clock, in which epoch. It is called very often, from several goroutines, and must not block.
	Holds() (epoch uint64, yes bool)
	// Changed gets a value when that may have changed. One goroutine receives from it.
	Changed() <-chan struct{}
}

// VIP is one virtual address as configured.
type VIP struct {
	// Address with the prefix length that it was configured with, which hooks are told. On the interface it is that of a single host.
	Address netip.Prefix
	// Interface takes the address; "" is the one whose subnet contains it.
	Interface string
	// Hook is a command, with its arguments, that is run when the role comes and goes; nil: none.
	Hook []string
	// HookOnly leaves the address itself alone: the hook moves whatever does.
	HookOnly bool
	// HookTimeout ends one run of the hook; 0 is DefaultHookTimeout.
	HookTimeout time.Duration
}

// Config is what a Runner needs. All fields are required, but for those that say what nil is.
type Config struct {
	VIPs []VIP
	// Node and Cluster are names, for hooks.
	Node, Cluster string
	Role          Role
	// PeerMACs are the other data node's hardware addresses that may answer for a VIP, as far as known. Nil: none are known.
	PeerMACs func(netip.Addr) []string
	// Connections are those to the addresses: they are cut before an address leaves. Nil: nobody's.
	Connections *Connections
	Host        Host
	Log         *slog.Logger
}

// Status is what is known of one VIP on this node.
type Status struct {
	Address netip.Prefix
	// Interface and MAC are where it is, or would be put; "" when that is not known.
	Interface, MAC string
	// Held: the address is on the interface, by this process, in good time.
	Held bool
	// HookOnly: the node never holds the address itself.
	HookOnly bool
	// Hook is what became of the hook's last event: "", "acquire: running", "acquire: done", "release: ...".
	Hook string
	// HookFailing: the hook's last attempt failed. HookMoved: its last event is an acquire, and done.
	HookFailing, HookMoved bool
	// Problem is why it is not held, or that somebody else claims it, and what to do; "" if all is well.
	Problem string
	// ForeignMAC is that of a host that claims the address and is neither of the data nodes; "" if none does.
	ForeignMAC string
	// Since this process started: how often a foreign host has been found, the address been taken, the hook failed.
	Conflicts, Takeovers, HookFailures uint64
}

// validate reports what New cannot work with.
func (c *Config) validate() error {
	var errs []error
	for _, need := range []struct {
		missing bool
		what    string
	}{{c.Role == nil, "role"}, {c.Host == nil, "host"}, {c.Log == nil, "log"}} {
		if need.missing {
			errs = append(errs, fmt.Errorf("vip: no %s", need.what))
		}
	}
	seen := map[netip.Addr]bool{}
	for _, v := range c.VIPs {
		if !v.Address.IsValid() {
			errs = append(errs, errors.New("vip: no address"))
		}
		if seen[v.Address.Addr()] {
			errs = append(errs, fmt.Errorf("%s is named twice", v.Address.Addr()))
		}
		seen[v.Address.Addr()] = true
		if v.HookOnly && len(v.Hook) == 0 {
			errs = append(errs, fmt.Errorf("%s: hook only, and no hook", v.Address.Addr()))
		}
	}
	return errors.Join(errs...)
}
