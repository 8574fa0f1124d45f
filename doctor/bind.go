package doctor

import (
	"errors"
	"fmt"
	"net"
	"strconv"
	"syscall"

	"kineshim/config"
)

const bindCheck = "own ports"

// Ports are this machine's.
type Ports interface {
	// TryListen opens the port and closes it again. anywhere: the address need not be on this machine.
	TryListen(address string, anywhere bool) error
	// Holder names the program that listens at the port, as "etcd[123]"; "" if that is not known.
	Holder(address string) string
}

// listener is a port that kineshim opens on this machine.
type listener struct{ config.Listener }

// port is 0 if the address has none, which Validate refuses.
func (l listener) port() int {
	_, p, _ := net.SplitHostPort(l.Address)
	n, _ := strconv.Atoi(p)
	return n
}

// listeners are all ports that the configuration has this node open.
func (n *node) listeners() []listener {
	var all []listener
	for _, p := range n.self.ports() {
		all = append(all, listener{config.Listener{Key: "members." + n.self.name + "." + p.key, Address: p.address}})
	}
	for _, l := range n.cfg.Listeners() {
		all = append(all, listener{l})
	}
	return all
}

// checkBinds tries the ports that a kineshim which does not run now will open.
func (n *node) checkBinds(ports Ports) []Finding {
	f := notes{check: bindCheck}
	all := n.listeners()
	if n.running {
		f.ok("kineshim runs: its %d ports are its own", len(all))
		return f.all
	}
	free := 0
	for _, l := range all {
		err := ports.TryListen(l.Address, l.Virtual)
		switch {
		case err == nil:
			free++
		case errors.Is(err, syscall.EADDRINUSE):
			n.judgeHeld(&f, l, ports.Holder(l.Address))
		case errors.Is(err, syscall.EADDRNOTAVAIL):
			f.fail("correct it, or give this machine the address: ip -brief address", "%s: this machine has no address %s", l.Key, l.Address)
		case errors.Is(err, syscall.EACCES):
			f.warn("run it as root: sudo shimctl doctor", "%s: not tried whether %s is free: %v", l.Key, l.Address, err)
		default:
			f.fail("correct it, or find out what forbids it: dmesg", "%s: %s: %v", l.Key, l.Address, innermost(err))
		}
	}
	if free > 0 {
		f.ok("%d of the %d ports that kineshim will open on this machine are free", free, len(all))
	}
	return f.all
}

func (n *node) judgeHeld(f *notes, l listener, holder string) {
	who := holder
	if who == "" {
		who = "another program"
	}
	do := fmt.Sprintf("stop it, or set %s to another port; ss -ltnp 'sport = :%d'", l.Key, l.port())
	if l.Key == "client_listen" {
		do = fmt.Sprintf("an etcd, or another datastore? Stop it for good (systemctl disable --now etcd), or set client_listen; ss -ltnp 'sport = :%d'", l.port())
	}
	f.fail(do, "%s: %s listens at %s already, and kineshim does not run", l.Key, who, l.Address)
}
