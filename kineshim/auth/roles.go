package auth

import (
	"bytes"
	"slices"

	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
)

// AddRole adds a role that permits nothing.
func (s *State) AddRole(name string) (*State, error) {
	if len(name) == 0 {
		return nil, rpctypes.ErrGRPCRoleEmpty
	}
	if s.roles[name] != nil {
		return nil, rpctypes.ErrGRPCRoleAlreadyExist
	}
	n := s.next()
	n.roles[name] = &authpb.Role{Name: []byte(name)}
	return n, nil
}

// DeleteRole deletes a role, and takes it from everybody.
func (s *State) DeleteRole(name string) (*State, error) {
	if s.enabled && name == root {
		return nil, rpctypes.ErrGRPCInvalidAuthMgmt
	}
	if s.roles[name] == nil {
		return nil, rpctypes.ErrGRPCRoleNotFound
	}
	n := s.next()
	delete(n.roles, name)
	for user, u := range n.users {
		if slices.Contains(u.Roles, name) {
			n.users[user] = n.merged(u.with(without(u.Roles, name)), u.since)
		}
	}
	return n, nil
}

// GrantPermission lets a role do something with a range of keys. Another permission for the same range takes the place of the one before.
func (s *State) GrantPermission(role string, p *authpb.Permission) (*State, error) {
	switch {
	case p == nil:
		return nil, rpctypes.ErrGRPCPermissionNotGiven
	case !validPermission(p.Key, p.RangeEnd):
		return nil, rpctypes.ErrGRPCInvalidAuthMgmt
	}
	was := s.roles[role]
	if was == nil {
		return nil, rpctypes.ErrGRPCRoleNotFound
	}
	granted := &authpb.Permission{Key: p.Key, RangeEnd: p.RangeEnd, PermType: p.PermType}
	all := slices.Clone(was.KeyPermission)
	// As etcd does it: of several with the same key, it looks at the first one only.
	at, _ := slices.BinarySearchFunc(all, p.Key, func(have *authpb.Permission, key []byte) int { return bytes.Compare(have.Key, key) })
	if at < len(all) && sameRange(all[at], p.Key, p.RangeEnd) {
		all[at] = granted
	} else {
		all = append(all, granted)
		slices.SortStableFunc(all, func(a, b *authpb.Permission) int { return bytes.Compare(a.Key, b.Key) })
	}
	return s.withPermissions(was, all), nil
}

// RevokePermission takes what a role may do with a range from it.
func (s *State) RevokePermission(role string, key, end []byte) (*State, error) {
	was := s.roles[role]
	if was == nil {
		return nil, rpctypes.ErrGRPCRoleNotFound
	}
	var left []*authpb.Permission
	for _, p := range was.KeyPermission {
		if !sameRange(p, key, end) {
			left = append(left, p)
		}
	}
	if len(left) == len(was.KeyPermission) {
		return nil, rpctypes.ErrGRPCPermissionNotGranted
	}
	return s.withPermissions(was, left), nil
}

func sameRange(p *authpb.Permission, key, end []byte) bool {
	return bytes.Equal(p.Key, key) && bytes.Equal(p.RangeEnd, end)
}

func (s *State) withPermissions(r *authpb.Role, all []*authpb.Permission) *State {
	n := s.next()
	n.roles[string(r.Name)] = &authpb.Role{Name: r.Name, KeyPermission: all}
	n.remerge()
	return n
}

// Role is what a role permits.
func (s *State) Role(name string) (*pb.AuthRoleGetResponse, error) {
	r := s.roles[name]
	switch {
	case r == nil:
		return nil, rpctypes.ErrGRPCRoleNotFound
	case name == root:
		return &pb.AuthRoleGetResponse{Perm: []*authpb.Permission{{PermType: authpb.READWRITE, Key: []byte{}, RangeEnd: []byte{0}}}}, nil
	}
	return &pb.AuthRoleGetResponse{Perm: slices.Clone(r.KeyPermission)}, nil
}

// Roles are all roles' names, sorted.
func (s *State) Roles() *pb.AuthRoleListResponse {
	return &pb.AuthRoleListResponse{Roles: s.roleNames()}
}
