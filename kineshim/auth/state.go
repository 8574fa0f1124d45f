// Package auth is etcd's access control as a value: users, roles, what they permit, and what of a request needs which permission. It is pure:
// who keeps a State sees to it that it is durable and in order with the data, and asks it before it does anything for a caller.
//
// The answers and errors are those of etcd 3.6.13 (server/auth, server/etcdserver/apply), with two exceptions: a watch of all keys from one on
// needs permission for all of them, where etcd asks for that of the first one only; and whoever gives a password for a user who has none is told
// the same as with a wrong one, where etcd tells him that in an error without a code.
package auth

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"

	"go.etcd.io/etcd/api/v3/authpb"
)

// root is the name of the user and of the role that may do everything.
const root = "root"

// State is the whole of the access control at one auth revision. It never changes: what changes it returns another one. The zero State is of no
// use; see New.
type State struct {
	enabled  bool
	revision uint64
	// version goes up with every change, also those that etcd gives no revision.
	version uint64
	users   map[string]user
	roles   map[string]*authpb.Role
	// key signs the tokens; it is another one whenever access control is enabled.
	key []byte
}

// user is one, with what his roles permit together.
type user struct {
	*authpb.User
	// since is the auth revision from which on tokens of his count.
	since       uint64
	read, write []interval
}

// New is a store's before anything was done to it: no users, no roles, disabled, at etcd's first auth revision.
func New() *State {
	return &State{revision: 1, users: map[string]user{}, roles: map[string]*authpb.Role{}}
}

// Enabled says whether callers need permission.
func (s *State) Enabled() bool { return s.enabled }

// Revision goes up with every change of users, roles and permissions, and when access control is disabled.
func (s *State) Revision() uint64 { return s.revision }

// Version goes up with every change. A State with a higher one is newer.
func (s *State) Version() uint64 { return s.version }

// stored is a State's durable form.
type stored struct {
	Version  uint64       `json:"version"`
	Enabled  bool         `json:"enabled"`
	Revision uint64       `json:"revision"`
	Key      []byte       `json:"key,omitempty"`
	Users    []storedUser `json:"users,omitempty"`
	Roles    [][]byte     `json:"roles,omitempty"` // authpb.Role
}

type storedUser struct {
	User  []byte `json:"user"` // authpb.User
	Since uint64 `json:"since"`
}

// Marshal is for Unmarshal, now or in a later version. It holds hashes of passwords and the key of the tokens.
func (s *State) Marshal() ([]byte, error) {
	out := stored{Version: s.version, Enabled: s.enabled, Revision: s.revision, Key: s.key}
	for _, name := range s.userNames() {
		b, err := s.users[name].Marshal()
		if err != nil {
			return nil, fmt.Errorf("user %q: %w", name, err)
		}
		out.Users = append(out.Users, storedUser{User: b, Since: s.users[name].since})
	}
	for _, name := range s.roleNames() {
		b, err := s.roles[name].Marshal()
		if err != nil {
			return nil, fmt.Errorf("role %q: %w", name, err)
		}
		out.Roles = append(out.Roles, b)
	}
	return json.Marshal(out)
}

// Unmarshal reads what Marshal has made.
func Unmarshal(b []byte) (*State, error) {
	var in stored
	if err := json.Unmarshal(b, &in); err != nil {
		return nil, fmt.Errorf("read users and roles: %w", err)
	}
	s := New()
	s.version, s.enabled, s.revision, s.key = in.Version, in.Enabled, in.Revision, in.Key
	for _, b := range in.Roles {
		r := new(authpb.Role)
		if err := r.Unmarshal(b); err != nil {
			return nil, fmt.Errorf("read a role: %w", err)
		}
		s.roles[string(r.Name)] = r
	}
	for _, su := range in.Users {
		u := new(authpb.User)
		if err := u.Unmarshal(su.User); err != nil {
			return nil, fmt.Errorf("read a user: %w", err)
		}
		s.users[string(u.Name)] = s.merged(u, su.Since)
	}
	return s, nil
}

// next is a State that may be changed, one auth revision later.
func (s *State) next() *State {
	n := *s
	n.version++
	n.revision++
	n.users, n.roles = make(map[string]user, len(s.users)+1), make(map[string]*authpb.Role, len(s.roles)+1)
	for name, u := range s.users {
		n.users[name] = u
	}
	for name, r := range s.roles {
		n.roles[name] = r
	}
	return &n
}

// remerge works out anew what everybody is permitted.
func (s *State) remerge() {
	for name, u := range s.users {
		s.users[name] = s.merged(u.User, u.since)
	}
}

// merged is a user with what his roles permit. A role that is not there permits nothing.
func (s *State) merged(u *authpb.User, since uint64) user {
	m := user{User: u, since: since}
	for _, name := range u.Roles {
		r := s.roles[name]
		if r == nil {
			continue
		}
		for _, p := range r.KeyPermission {
			if p.PermType == authpb.READ || p.PermType == authpb.READWRITE {
				m.read = append(m.read, permitted(p))
			}
			if p.PermType == authpb.WRITE || p.PermType == authpb.READWRITE {
				m.write = append(m.write, permitted(p))
			}
		}
	}
	slices.SortFunc(m.read, compareIntervals)
	slices.SortFunc(m.write, compareIntervals)
	return m
}

// isRoot says whether the user has the role root. Whoever has it may do everything, whether there is such a role or not.
func (u user) isRoot() bool { return slices.Contains(u.Roles, root) }

func (s *State) userNames() []string { return sortedNames(s.users) }
func (s *State) roleNames() []string { return sortedNames(s.roles) }

func sortedNames[V any](m map[string]V) []string {
	names := make([]string, 0, len(m))
	for name := range m {
		names = append(names, name)
	}
	slices.SortFunc(names, cmp.Compare[string])
	return names
}
