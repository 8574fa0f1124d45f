package doctor

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"kineshim/raftwitness"
)

// only is the node with one other member left.
func (n *node) only(m member) { n.others = []member{m} }

func TestEachPortOfARealClusterAnswers(t *testing.T) {
	n, ids, a := enrolledNode(t, time.Hour)
	b, w := n.member(t, "b"), n.member(t, "w")
	b.raft, w.raft = voter(t, a, ids["b"], time.Hour), voter(t, a, ids["w"], time.Hour)
	b.peer, b.postgres = listen(t).Addr().String(), listen(t).Addr().String()
	n.others = []member{b, w}
	all := n.reachAll(t.Context(), localNetwork{})
	expect(t, n.checkPorts(all),
		"ok b answers at "+b.raft+" (Raft), as "+ids["b"].ServerID+" of cluster "+ids["b"].ClusterID,
		"ok b answers at "+b.peer+" (peer)", "ok b answers at "+b.postgres+" (PostgreSQL)",
		"ok w answers at "+w.raft+" (Raft), as "+ids["w"].ServerID)
	expect(t, n.checkTrips(all), "ok b: ", "ok w: ")
	if got := len(all[0].trips); got != connects-1 {
		t.Errorf("%d round trips, want %d", got, connects-1)
	}
	expect(t, n.checkClocks(fakeClock{yes: true}, all), "ok this machine's clock is synchronised", "ok the clock of b is ", "ok the clock of w is ")
}

func TestWhoAnswersAtARaftPortIsToldApart(t *testing.T) {
	const year = 365 * 24 * time.Hour
	for name, tc := range map[string]struct {
		// at is what answers at w's address; own is how long a's certificate is good.
		at   func(t *testing.T, n *node, w *member) string
		own  time.Duration
		want []string
	}{
		"another cluster": {own: year, at: func(t *testing.T, n *node, _ *member) string {
			id := founded(n.cfg)["w"]
			return voter(t, newAuthority(t, id.ClusterID), id, year)
		}, want: []string{"FAIL is not a member of cluster // raftwitness join, with"}},
		"the same cluster's name, another authority": {own: year, at: func(t *testing.T, n *node, _ *member) string {
			id := otherIdentity(n, "w")
			return voter(t, newAuthority(t, id.ClusterID), id, year)
		}, want: []string{"FAIL another cluster answers there: it is w- // correct members.w.raft"}},
		"another member": {own: year, at: func(t *testing.T, n *node, _ *member) string {
			return voter(t, authorityOf(t, n), otherIdentity(n, "b"), year)
		}, want: []string{"FAIL it is b- // correct members.w.raft"}},
		"one that was enrolled anew": {own: year, at: func(t *testing.T, n *node, w *member) string {
			w.server = "w-00000000"
			return voter(t, authorityOf(t, n), otherIdentity(n, "w"), year)
		}, want: []string{"ok it was enrolled anew since this node was, as w-00000000 then"}},
		"one with a part that it should not have": {own: year, at: func(t *testing.T, n *node, w *member) string {
			w.peer, n.running = closedPort(t), true
			return voter(t, authorityOf(t, n), otherIdentity(n, "w"), year)
		}, want: []string{`FAIL has the part "witness" in the cluster, and the configuration says "data" // correct members.w`, "FAIL (peer): refused // ss -ltnp"}},
		"one whose certificate has ended": {own: year, at: func(t *testing.T, n *node, _ *member) string {
			return voter(t, authorityOf(t, n), otherIdentity(n, "w"), time.Millisecond)
		}, want: []string{"FAIL its certificate has ended: on // shimctl witness replace"}},
		"one whose certificate is about to end": {own: year, at: func(t *testing.T, n *node, _ *member) string {
			n.now = n.now.Add(year - 20*24*time.Hour)
			return voter(t, authorityOf(t, n), otherIdentity(n, "w"), year)
		}, want: []string{"ok w answers at", "warn the certificate of w- // shimctl witness replace"}},
		"this node's certificate has ended": {own: time.Millisecond, at: func(t *testing.T, n *node, _ *member) string {
			return voter(t, authorityOf(t, n), otherIdentity(n, "w"), year)
		}, want: []string{"FAIL it does not believe this node's certificate // systemctl restart kineshim renews it"}},
		"somebody who speaks first, and not TLS": {own: year, at: func(t *testing.T, _ *node, _ *member) string {
			return answering(t, func(c net.Conn) { fmt.Fprint(c, "SSH-2.0-OpenSSH_9.6\r\n") })
		}, want: []string{"FAIL somebody else answers there: no raftwitness // ss -ltnp"}},
		"somebody who hangs up": {own: year, at: func(t *testing.T, _ *node, _ *member) string {
			return answering(t, func(c net.Conn) { c.Read(make([]byte, 1<<10)) })
		}, want: []string{"FAIL somebody else answers there: no raftwitness // ss -ltnp"}},
		"somebody who says nothing": {own: year, at: func(t *testing.T, _ *node, _ *member) string { return listen(t).Addr().String() },
			want: []string{"FAIL nobody says anything for 2s: a frozen raftwitness, or another program // systemctl status raftwitness"}},
		"nobody": {own: year, at: func(t *testing.T, n *node, _ *member) string {
			n.running = true
			return closedPort(t)
		}, want: []string{"FAIL refused: the machine answers, and nobody listens there // systemctl status raftwitness"}},
		"nobody, before the first start": {own: year, at: func(t *testing.T, _ *node, _ *member) string { return closedPort(t) },
			want: []string{"warn refused: the machine answers, and nobody listens there // if nothing has been started yet"}},
	} {
		t.Run(name, func(t *testing.T) {
			n, _, _ := enrolledNode(t, tc.own)
			w := n.member(t, "w")
			w.raft = tc.at(t, n, &w)
			n.only(w)
			expect(t, n.checkPorts(n.reachAll(t.Context(), localNetwork{})), tc.want...)
		})
	}
}

// otherIdentity is that of another member of n's cluster.
func otherIdentity(n *node, name string) raftwitness.Identity {
	id := *n.enrolment.id
	p, _ := id.PeerByName(name)
	id.Name, id.ServerID, id.Role = p.Name, p.ServerID, p.Role
	return id
}

// deaf is a network in which each address has its own error.
type deaf map[string]error

func (d deaf) Dial(_ context.Context, address string) (net.Conn, error) {
	return nil, &net.OpError{Op: "dial", Net: "tcp", Err: d[address]}
}

func (deaf) Ask(context.Context, net.Conn, Asker) (raftwitness.Answer, error) {
	return raftwitness.Answer{}, errors.New("nobody is asked")
}

func TestWhyAPortIsNotReachedIsToldApart(t *testing.T) {
	syscallError := func(e syscall.Errno) error { return os.NewSyscallError("connect", e) }
	for name, tc := range map[string]struct {
		err  error
		want string
	}{
		"a firewall that drops": {os.ErrDeadlineExceeded, "FAIL no answer within 2s // ufw allow proto tcp from 192.168.1.10 to any port 2384,2383,5433"},
		"the kernel gave up":    {syscallError(syscall.ETIMEDOUT), "FAIL no answer within 2s // firewall-cmd --permanent --add-port=2384/tcp --add-port=2383/tcp --add-port=5433/tcp"},
		"no route":              {syscallError(syscall.EHOSTUNREACH), "FAIL no route to it: no route to host // ip route get 192.168.1.11"},
		"no network":            {syscallError(syscall.ENETUNREACH), "FAIL no route to it: network is unreachable // ip route get 192.168.1.11"},
		"no such name":          {&net.DNSError{Err: "no such host", Name: "b"}, "FAIL the name is not known // /etc/hosts"},
		"refused":               {syscallError(syscall.ECONNREFUSED), "warn refused // systemctl status kineshim"},
		"something else":        {syscallError(syscall.EPERM), "FAIL operation not permitted // ip route get"},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			b := n.member(t, "b")
			n.only(b)
			got := n.checkPorts(n.reachAll(t.Context(), deaf{b.raft: tc.err, b.peer: tc.err, b.postgres: tc.err}))
			expect(t, got, tc.want)
			if all := "2384 (Raft), 192.168.1.11:2383 (peer), 192.168.1.11:5433 (PostgreSQL): "; !strings.Contains(got[0].Found, all) {
				t.Errorf("%s: not all three ports are named", got[0].Found)
			}
		})
	}
}
