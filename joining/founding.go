package joining

import (
	"bytes"
	"crypto/subtle"
	"fmt"
	"net"
	"slices"
	"time"

	"kineshim/raftwitness"
	"kineshim/raftwitness/record"
)

// Founding is the founder's list: who it is, and for whom it waits. Its methods do no I/O.
type Founding struct {
	Cluster string `json:"cluster"`
	// Promise is the heartbeat timeout that all three share.
	Promise time.Duration `json:"promiseNanoseconds"`
	// Founder is the founder itself.
	Founder     raftwitness.Peer `json:"founder"`
	Invitations []Invitation     `json:"invitations"`
}

// Invitation is one token, as the founder knows it.
type Invitation struct {
	Role record.Role `json:"role"`
	// Secret is the hash of the token's.
	Secret  []byte    `json:"secretSHA256"`
	Expires time.Time `json:"expires"`
	// Guest is who has used it; nil: nobody yet.
	Guest *Guest `json:"guest,omitempty"`
}

// Guest is a machine that has shown a token.
type Guest struct {
	raftwitness.Peer
	// Key is the SHA-256 of its public key: only who has the private one is this guest.
	Key []byte `json:"keySHA256"`
	// Host is what the machine calls itself, From where it was seen, At when it came.
	Host string    `json:"host"`
	From string    `json:"from"`
	At   time.Time `json:"at"`
}

// New begins the founding of a cluster: who founds it, with both its invitations to be made by Invite.
func New(cluster string, promise time.Duration, founder raftwitness.Peer) *Founding {
	return &Founding{Cluster: cluster, Promise: promise, Founder: founder}
}

// Invite makes the token for a role, and makes those void that were made for it before. It is refused once somebody has joined with one.
func (f *Founding) Invite(role record.Role, authority [32]byte, validFor time.Duration, now time.Time) (Token, error) {
	t := Token{
		Cluster: f.Cluster, Role: role, Authority: authority, Secret: newSecret(), Expires: now.Add(validFor).UTC().Truncate(time.Second),
		Addresses: []string{f.Founder.Raft},
	}
	i := Invitation{Role: role, Secret: hash(t.Secret[:]), Expires: t.Expires}
	old := f.invitation(role)
	if old == nil {
		f.Invitations = append(f.Invitations, i)
		return t, nil
	}
	if f.Complete() {
		return t, fmt.Errorf("cluster %s is complete: %s is its %s already. To have another machine in its place: shimctl %s replace", f.Cluster, old.Guest.Name, Words(role), commandOf(role))
	}
	*old = i
	return t, nil
}

// Words are what a role is called to an operator.
func Words(role record.Role) string {
	if role == record.Witness {
		return "witness"
	}
	return "other data node"
}

func commandOf(role record.Role) string {
	if role == record.Witness {
		return "witness"
	}
	return "node"
}

func (f *Founding) invitation(role record.Role) *Invitation {
	for i := range f.Invitations {
		if f.Invitations[i].Role == role {
			return &f.Invitations[i]
		}
	}
	return nil
}

// Missing says for whom the founder waits.
func (f *Founding) Missing() []record.Role {
	var out []record.Role
	for _, role := range roles {
		if i := f.invitation(role); i == nil || i.Guest == nil {
			out = append(out, role)
		}
	}
	return out
}

// Complete says whether all three are known.
func (f *Founding) Complete() bool { return len(f.Missing()) == 0 }

// Over says whether all tokens had ended by then, so that nobody can use one any more who has not begun to.
func (f *Founding) Over(then time.Time) bool {
	return !slices.ContainsFunc(f.Invitations, func(i Invitation) bool { return !then.After(i.Expires) })
}

// Peers are the founder and the guests, by name.
func (f *Founding) Peers() []raftwitness.Peer {
	out := []raftwitness.Peer{f.Founder}
	for _, i := range f.Invitations {
		if i.Guest != nil {
			out = append(out, i.Guest.Peer)
		}
	}
	slices.SortFunc(out, func(a, b raftwitness.Peer) int { return bytes.Compare([]byte(a.Name), []byte(b.Name)) })
	return out
}

// Identity is that of one of the three; they must be complete.
func (f *Founding) Identity(of raftwitness.Peer) raftwitness.Identity {
	return raftwitness.Identity{
		ClusterID: f.Cluster, Name: of.Name, ServerID: of.ServerID, Role: of.Role, Founder: f.Founder.Name, Promise: f.Promise, Peers: f.Peers(),
	}
}

// Admit judges a guest that shows a token. It returns who the guest is from now on, and whether that is new, so that the list has to be saved before
// anything is answered. dry: nothing is changed.
func (f *Founding) Admit(q Request, key []byte, from string, now time.Time) (guest Guest, changed bool, err error) {
	i := slices.IndexFunc(f.Invitations, func(i Invitation) bool { return subtle.ConstantTimeCompare(i.Secret, hash(q.Secret)) == 1 })
	if i < 0 {
		return guest, false, fmt.Errorf("this token is not known to the founder of cluster %s: a newer one was made, or it is another's. On %s: kineshim token", f.Cluster, f.Founder.Name)
	}
	inv := &f.Invitations[i]
	if g := inv.Guest; g != nil {
		if !bytes.Equal(g.Key, key) {
			return guest, false, fmt.Errorf("this token was used already, by %s (%s, seen at %s) on %s: each machine needs one of its own. If that machine is not to be the %s: on %s: kineshim token --for %s",
				g.Name, g.Host, g.From, g.At.UTC().Format(time.DateTime), Words(inv.Role), f.Founder.Name, inv.Role)
		}
		if f.Complete() { // the others know it as it is
			return *g, false, nil
		}
		return f.correct(inv, q)
	}
	if now.After(inv.Expires) {
		return guest, false, fmt.Errorf("this token ended on %s; by the clock of %s it is %s. For a new one, there: kineshim token",
			inv.Expires.UTC().Format(time.DateTime), f.Founder.Name, now.UTC().Format(time.DateTime))
	}
	p := q.peer(inv.Role, "")
	if err := f.fits(p); err != nil {
		return guest, false, err
	}
	p.ServerID = raftwitness.NewServerID(p.Name)
	guest = Guest{Peer: p, Key: key, Host: q.Host, From: from, At: now.UTC()}
	if q.Dry {
		return guest, false, nil
	}
	inv.Guest = &guest
	return guest, true, nil
}

// peer is the member that the guest wants to be.
func (q Request) peer(role record.Role, serverID string) raftwitness.Peer {
	return raftwitness.Peer{Member: record.Member{Name: q.Name, Role: role, ServerID: serverID}, Raft: q.Raft, Peer: q.Peer, Postgres: q.Postgres}
}

// correct takes what a guest that comes again says of itself now, as long as nobody else has been told of it.
func (f *Founding) correct(inv *Invitation, q Request) (guest Guest, changed bool, err error) {
	guest = *inv.Guest
	p := q.peer(inv.Role, guest.ServerID)
	if p == guest.Peer {
		return guest, false, nil
	}
	if err := f.fits(p); err != nil {
		return guest, false, err
	}
	if p.Name != guest.Name {
		p.ServerID = raftwitness.NewServerID(p.Name)
	}
	guest.Peer = p
	if q.Dry {
		return guest, false, nil
	}
	inv.Guest = &guest
	return guest, true, nil
}

// HostOf is the host of host:port; "" if it is none.
func HostOf(address string) string {
	host, _, _ := net.SplitHostPort(address)
	return host
}

// fits says why a newcomer, or one that has another name or other addresses now, cannot be a member beside the others.
func (f *Founding) fits(p raftwitness.Peer) error {
	addresses := []string{p.Raft}
	if p.Role == record.Data {
		addresses = append(addresses, p.Peer, p.Postgres)
	}
	for _, a := range addresses {
		if host, port, err := net.SplitHostPort(a); err != nil || host == "" || port == "" || port == "0" {
			return fmt.Errorf("%q is not host:port at which the others could reach %s", a, p.Name)
		}
	}
	for _, other := range f.Peers() {
		if other.ServerID == p.ServerID {
			continue
		}
		if other.Name == p.Name {
			return fmt.Errorf("the member at %s is called %q already: give this machine another name with --name", HostOf(other.Raft), p.Name)
		}
		for _, a := range addresses {
			if slices.Contains([]string{other.Raft, other.Peer, other.Postgres}, a) {
				return fmt.Errorf("%s is the address of %s already: give this machine's own with --advertise", a, other.Name)
			}
		}
	}
	return nil
}
