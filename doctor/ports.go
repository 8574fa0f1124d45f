package doctor

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"syscall"
)

const portsCheck = "ports"

// checkPorts judges what the ports of the others answer. Ports of one member with the same trouble are one finding.
func (n *node) checkPorts(all []reached) []Finding {
	f := notes{check: portsCheck}
	for _, r := range all {
		var order []trouble
		troubled := map[trouble][]port{}
		for _, p := range r.member.ports() {
			switch err := r.dials[p.key]; {
			case err != nil:
				t := troubleOf(err)
				if troubled[t] == nil {
					order = append(order, t)
				}
				troubled[t] = append(troubled[t], p)
			case p.key == "raft" && r.asked:
				n.judgeAnswer(&f, r, p)
			default:
				f.ok("%s answers at %s (%s)", r.member.name, p.address, p.name)
			}
		}
		for _, t := range order {
			n.judgeTrouble(&f, r, t, troubled[t])
		}
	}
	return f.all
}

// trouble is why a connection was not made.
type trouble int

const (
	otherTrouble trouble = iota
	refused
	noRoute
	timedOut
	noName
)

func troubleOf(err error) trouble {
	var name *net.DNSError
	var slow net.Error
	switch {
	case errors.As(err, &name):
		return noName
	case errors.Is(err, syscall.ECONNREFUSED):
		return refused
	case errors.Is(err, syscall.EHOSTUNREACH), errors.Is(err, syscall.ENETUNREACH), errors.Is(err, syscall.EHOSTDOWN), errors.Is(err, syscall.ENETDOWN):
		return noRoute
	case errors.As(err, &slow) && slow.Timeout(): // a deadline's or the kernel's, ETIMEDOUT
		return timedOut
	}
	return otherTrouble
}

// judgeTrouble says what keeps the ports from being reached, and what to do.
func (n *node) judgeTrouble(f *notes, r reached, t trouble, ports []port) {
	m, err := r.member, r.dials[ports[0].key]
	host, _, _ := net.SplitHostPort(ports[0].address)
	var where []string
	for _, p := range ports {
		where = append(where, fmt.Sprintf("%s (%s)", p.address, p.name))
	}
	at := m.name + " at " + strings.Join(where, ", ")
	open := n.openPorts(m, ports)
	switch t {
	case refused:
		n.judgeRefused(f, m, at, open)
	case noRoute:
		f.fail(fmt.Sprintf("is %s switched on, and is the address right? ip route get %s\na firewall that rejects says this too: %s", m.name, host, open),
			"%s: no route to it: %v", at, innermost(err))
	case timedOut:
		f.fail(fmt.Sprintf("a firewall drops it, here, there or between: %s\nor %s is switched off, or has another address: ping %s", open, m.name, host),
			"%s: no answer within %v", at, dialBound)
	case noName:
		f.fail(fmt.Sprintf("write its IP address into the configuration, or its name into /etc/hosts: %s must be found while name servers are away", host),
			"%s: the name is not known: %v", at, err)
	default:
		f.fail(fmt.Sprintf("ip route get %s", host), "%s: %v", at, err)
	}
}

// innermost is the kernel's word, without Go's around it.
func innermost(err error) error {
	for {
		next := errors.Unwrap(err)
		if next == nil {
			return err
		}
		err = next
	}
}

// judgeRefused: the machine is there, and nobody listens. While nothing has been started yet, that is as it must be.
func (n *node) judgeRefused(f *notes, m member, at, open string) {
	do := fmt.Sprintf("on %s: systemctl status %s; if it runs: does it listen there? ss -ltnp\na firewall that rejects says this too: %s", m.name, programOf(m), open)
	if n.running {
		f.fail(do, "%s: refused: the machine answers, and nobody listens there", at)
		return
	}
	f.warn("if nothing has been started yet: run this again when it has\n"+do, "%s: refused: the machine answers, and nobody listens there", at)
}

// programOf is the program, and the unit, that runs on the member's machine.
func programOf(m member) string {
	if m.witness() {
		return "raftwitness"
	}
	return "kineshim"
}

// openPorts is how a member's firewall is told to let this node through, in the words of the common ones.
func (n *node) openPorts(m member, ports []port) string {
	from, _, _ := net.SplitHostPort(n.self.raft)
	var numbers, added []string
	for _, p := range ports {
		_, number, _ := net.SplitHostPort(p.address)
		numbers, added = append(numbers, number), append(added, "--add-port="+number+"/tcp")
	}
	return fmt.Sprintf("on %s, open TCP %s for %s\n  ufw allow proto tcp from %s to any port %s\n  firewall-cmd --permanent %s && firewall-cmd --reload",
		m.name, strings.Join(numbers, ", "), n.self.name, from, strings.Join(numbers, ","), strings.Join(added, " "))
}
