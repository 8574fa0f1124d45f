package auth

import (
	"slices"

	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// Enable returns a State in which callers need permission. There must be a user root with the role root, or nobody could disable it again. key is to
// be random: it signs the tokens, and those that another one has signed are void.
func (s *State) Enable(key []byte) (*State, error) {
	if s.enabled {
		return s, nil
	}
	u, ok := s.users[root]
	switch {
	case !ok:
		return nil, rpctypes.ErrGRPCRootUserNotExist
	case !u.isRoot():
		return nil, rpctypes.ErrGRPCRootRoleNotExist
	}
	n := s.next()
	n.enabled, n.revision, n.key = true, s.revision, key
	return n, nil
}

// Disable returns a State in which everybody may do everything.
func (s *State) Disable() *State {
	if !s.enabled {
		return s
	}
	n := s.next()
	n.enabled, n.key = false, nil
	return n
}

// AddUser adds a user. hash is that of the password, see Hash; a user that is to have none has none.
func (s *State) AddUser(r *pb.AuthUserAddRequest, hash []byte) (*State, error) {
	if len(r.Name) == 0 {
		return nil, rpctypes.ErrGRPCUserEmpty
	}
	if _, ok := s.users[r.Name]; ok {
		return nil, rpctypes.ErrGRPCUserAlreadyExist
	}
	options := r.Options
	if options == nil {
		options = &authpb.UserAddOptions{}
	}
	u := &authpb.User{Name: []byte(r.Name), Options: options}
	if !options.NoPassword {
		u.Password = hash
	}
	n := s.next()
	n.users[r.Name] = n.merged(u, n.revision)
	return n, nil
}

// DeleteUser deletes a user, and voids his tokens.
func (s *State) DeleteUser(name string) (*State, error) {
	if s.enabled && name == root {
		return nil, rpctypes.ErrGRPCInvalidAuthMgmt
	}
	if _, ok := s.users[name]; !ok {
		return nil, rpctypes.ErrGRPCUserNotFound
	}
	n := s.next()
	delete(n.users, name)
	return n, nil
}

// ChangePassword changes a user's password, and voids his tokens. One that has none gets none.
func (s *State) ChangePassword(name string, hash []byte) (*State, error) {
	was, ok := s.users[name]
	if !ok {
		return nil, rpctypes.ErrGRPCUserNotFound
	}
	u := &authpb.User{Name: was.Name, Roles: was.Roles, Options: was.Options}
	if was.hasPassword() {
		u.Password = hash
	}
	n := s.next()
	n.users[name] = n.merged(u, n.revision)
	return n, nil
}

func (u user) hasPassword() bool { return u.Options == nil || !u.Options.NoPassword }

// GrantRole gives a role to a user. Giving it again changes nothing.
func (s *State) GrantRole(name, role string) (*State, error) {
	was, ok := s.users[name]
	if !ok {
		return nil, rpctypes.ErrGRPCUserNotFound
	}
	if role != root && s.roles[role] == nil {
		return nil, rpctypes.ErrGRPCRoleNotFound
	}
	if slices.Contains(was.Roles, role) {
		return s, nil
	}
	roles := append(slices.Clone(was.Roles), role)
	slices.Sort(roles)
	n := s.next()
	n.users[name] = n.merged(was.with(roles), was.since)
	return n, nil
}

// RevokeRole takes a role from a user.
func (s *State) RevokeRole(name, role string) (*State, error) {
	if s.enabled && name == root && role == root {
		return nil, rpctypes.ErrGRPCInvalidAuthMgmt
	}
	was, ok := s.users[name]
	if !ok {
		return nil, rpctypes.ErrGRPCUserNotFound
	}
	roles := without(was.Roles, role)
	if len(roles) == len(was.Roles) {
		return nil, rpctypes.ErrGRPCRoleNotGranted
	}
	n := s.next()
	n.users[name] = n.merged(was.with(roles), was.since)
	return n, nil
}

// with is the user with other roles.
func (u user) with(roles []string) *authpb.User {
	return &authpb.User{Name: u.Name, Password: u.Password, Options: u.Options, Roles: roles}
}

func without(all []string, one string) []string {
	var left []string
	for _, s := range all {
		if s != one {
			left = append(left, s)
		}
	}
	return left
}

// User is a user's roles.
func (s *State) User(name string) (*pb.AuthUserGetResponse, error) {
	u, ok := s.users[name]
	if !ok {
		return nil, rpctypes.ErrGRPCUserNotFound
	}
	return &pb.AuthUserGetResponse{Roles: slices.Clone(u.Roles)}, nil
}

// Users are all users' names, sorted.
func (s *State) Users() *pb.AuthUserListResponse {
	return &pb.AuthUserListResponse{Users: s.userNames()}
}
