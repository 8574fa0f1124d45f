package joining

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"time"

	"kineshim/config"
	"kineshim/pki"
	"kineshim/raftwitness"
	"kineshim/raftwitness/record"
)

// errorMax bounds what is said of a refusal.
const errorMax = 2000

// Host answers guests on the founder.
type Host struct {
	// Book is the founder's list.
	Book Book
	// Authority makes the guests' certificates, which are good for Lifetime.
	Authority *pki.Authority
	Lifetime  time.Duration
	// Secrets are what the two data nodes share, Settings the configuration that they do.
	Secrets  json.RawMessage
	Settings func() (string, error)
	// PostgresMajor is the version of the founder's PostgreSQL.
	PostgresMajor int
	// VIPs are the cluster's virtual addresses, which no member may have for its own.
	VIPs []netip.Addr
	// Current is the server ID that the member has now; nil: the cluster is not founded yet. A guest that was replaced since is refused.
	Current func(name string) (serverID string, ok bool)
	Log     *slog.Logger

	refusals refusals
}

// Serve answers one guest, and closes the connection, at the latest when ctx ends.
func (h *Host) Serve(ctx context.Context, c net.Conn) {
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { c.Close() })
	defer stop()
	var q Request
	switch err := readFrame(c, &q); {
	case errors.Is(err, io.EOF):
		return // a guest that has found out by its own address that it cannot join
	case err != nil:
		h.refused("a machine that wants to join said nothing that can be understood", c, "", err)
		return
	}
	a, err := h.answer(q, HostOf(c.RemoteAddr().String()), time.Now())
	if err != nil {
		h.refused("a machine that wants to join was refused", c, q.Host, err)
		why := err.Error()
		a = Answer{Error: why[:min(len(why), errorMax)]}
	}
	if err := writeFrame(c, a); err != nil {
		h.refused("a machine that wants to join did not get its answer: it has to ask again", c, q.Host, err)
	}
}

// answer is what the guest is told. What binds it to the token is durable before it is.
func (h *Host) answer(q Request, from string, now time.Time) (Answer, error) {
	key, err := keyOf(q.CSR)
	if err != nil {
		return Answer{}, err
	}
	if err := config.CheckName(q.Name); err != nil {
		return Answer{}, err
	}
	var guest Guest
	f, err := h.Book.Change(func(f *Founding) (bool, error) {
		var changed bool
		var err error
		guest, changed, err = f.Admit(q, key, from, now)
		if err == nil {
			err = h.fits(q, guest)
		}
		return changed && err == nil, err
	})
	if err != nil {
		return Answer{}, err
	}
	a := Answer{Founder: f.Founder.Name, Missing: f.Missing()}
	if len(a.Missing) > 0 || q.Dry {
		return a, nil
	}
	if h.Current == nil { // it is about to begin: only then it is certain that there is a cluster
		return a, nil
	}
	if id, ok := h.Current(guest.Name); !ok || id != guest.ServerID {
		return Answer{}, fmt.Errorf("%s was replaced since: join with what shimctl %s replace gives", guest.Name, commandOf(guest.Role))
	}
	a.Enrolment, err = h.enrol(f, guest, q.CSR, now)
	if err == nil && guest.Role == record.Data {
		a.Enrolment.Secrets = h.Secrets
		a.Settings, err = h.Settings()
	}
	return a, err
}

// fits refuses a guest with an address that is not its own, and a data node that could not follow this one.
func (h *Host) fits(q Request, guest Guest) error {
	for _, a := range []string{guest.Raft, guest.Peer.Peer, guest.Postgres} {
		if ip, err := netip.ParseAddr(HostOf(a)); err == nil && slices.Contains(h.VIPs, ip.Unmap()) {
			return fmt.Errorf("%s moves between the servers as a virtual address, so it cannot be the address of %s: give that machine another one, and name it with --advertise", ip, guest.Name)
		}
	}
	if guest.Role == record.Data && q.PostgresMajor != h.PostgresMajor {
		return fmt.Errorf("this machine has PostgreSQL %d, the founder has %d: replication needs the same major version on both", q.PostgresMajor, h.PostgresMajor)
	}
	return nil
}

func (h *Host) enrol(f *Founding, guest Guest, csr []byte, now time.Time) (*raftwitness.Enrolment, error) {
	e := &raftwitness.Enrolment{Identity: f.Identity(guest.Peer)}
	if err := e.Identity.Validate(); err != nil {
		return nil, err
	}
	cert, err := h.Authority.Answer(csr, e.Identity.Subject(), h.Lifetime, now)
	if err != nil {
		return nil, err
	}
	e.Certificates, err = h.Authority.Grant(cert, guest.Role == record.Data)
	return e, err
}

// keyOf is by what a guest is known: the hash of the public key in its request, which it has proved to have the private one of.
func keyOf(csr []byte) ([]byte, error) {
	r, err := pki.ParseRequest(csr)
	if err != nil {
		return nil, err
	}
	h := sha256.Sum256(r.RawSubjectPublicKeyInfo)
	return h[:], nil
}
