package doctor

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"syscall"
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
type listener struct {
	key, address string
	// virtual: it is on a virtual address, which may not be here.
	virtual bool
}

// port is 0 if the address has none, which Validate refuses.
func (l listener) port() int {
	_, p, _ := net.SplitHostPort(l.address)
	n, _ := strconv.Atoi(p)
	return n
}

// listeners are all ports that the configuration has this node open.
func (n *node) listeners() []listener {
	var all []listener
	for _, p := range n.self.ports() {
		all = append(all, listener{key: "members." + n.self.name + "." + p.key, address: p.address})
	}
	for _, a := range n.cfg.ClientAddresses() {
		all = append(all, listener{key: "client_listen", address: a.HostPort})
	}
	for _, l := range []listener{{key: "control_listen", address: n.cfg.ControlListen}, {key: "http_listen", address: n.cfg.HTTPListen}, {key: "apiserver.listen", address: n.cfg.APIServer.Listen}} {
		if l.address != "" {
			all = append(all, l)
		}
	}
	for _, a := range n.cfg.Applications.Listen {
		all = append(all, listener{key: "applications.listen", address: a})
	}
	for _, v := range n.cfg.VIPs {
		p, err := v.Prefix()
		if err != nil {
			continue
		}
		for _, x := range []struct {
			key  string
			port int
		}{{"vip_etcd.port", n.cfg.VIPEtcd.Port}, {"applications.port", n.cfg.Applications.Port}} {
			if x.port != 0 {
				all = append(all, listener{x.key, netip.AddrPortFrom(p.Addr(), uint16(x.port)).String(), true})
			}
		}
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
		err := ports.TryListen(l.address, l.virtual)
		switch {
		case err == nil:
			free++
		case errors.Is(err, syscall.EADDRINUSE):
			n.judgeHeld(&f, l, ports.Holder(l.address))
		case errors.Is(err, syscall.EADDRNOTAVAIL):
			f.fail("correct it, or give this machine the address: ip -brief address", "%s: this machine has no address %s", l.key, l.address)
		case errors.Is(err, syscall.EACCES):
			f.warn("run it as root: sudo shimctl doctor", "%s: not tried whether %s is free: %v", l.key, l.address, err)
		default:
			f.fail("correct it, or find out what forbids it: dmesg", "%s: %s: %v", l.key, l.address, innermost(err))
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
	do := fmt.Sprintf("stop it, or set %s to another port; ss -ltnp 'sport = :%d'", l.key, l.port())
	if l.key == "client_listen" {
		do = fmt.Sprintf("an etcd, or another datastore? Stop it for good (systemctl disable --now etcd), or set client_listen; ss -ltnp 'sport = :%d'", l.port())
	}
	f.fail(do, "%s: %s listens at %s already, and kineshim does not run", l.key, who, l.address)
}
