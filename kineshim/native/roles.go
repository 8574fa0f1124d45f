package native

import (
	"context"

	"kineshim/kineshim/auth"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// RoleAdd adds a role.
func (e *Engine) RoleAdd(ctx context.Context, r *pb.AuthRoleAddRequest) (*pb.AuthRoleAddResponse, error) {
	header, err := e.changeAccess(ctx, func(s *auth.State) (*auth.State, error) { return s.AddRole(r.Name) })
	if err != nil {
		return nil, err
	}
	return &pb.AuthRoleAddResponse{Header: header}, nil
}

// RoleDelete deletes a role, and takes it from everybody.
func (e *Engine) RoleDelete(ctx context.Context, r *pb.AuthRoleDeleteRequest) (*pb.AuthRoleDeleteResponse, error) {
	header, err := e.changeAccess(ctx, func(s *auth.State) (*auth.State, error) { return s.DeleteRole(r.Role) })
	if err != nil {
		return nil, err
	}
	return &pb.AuthRoleDeleteResponse{Header: header}, nil
}

// RoleGrantPermission lets a role do something with a range of keys.
func (e *Engine) RoleGrantPermission(ctx context.Context, r *pb.AuthRoleGrantPermissionRequest) (*pb.AuthRoleGrantPermissionResponse, error) {
	header, err := e.changeAccess(ctx, func(s *auth.State) (*auth.State, error) { return s.GrantPermission(r.Name, r.Perm) })
	if err != nil {
		return nil, err
	}
	return &pb.AuthRoleGrantPermissionResponse{Header: header}, nil
}

// RoleRevokePermission takes what a role may do with a range from it.
func (e *Engine) RoleRevokePermission(ctx context.Context, r *pb.AuthRoleRevokePermissionRequest) (*pb.AuthRoleRevokePermissionResponse, error) {
	header, err := e.changeAccess(ctx, func(s *auth.State) (*auth.State, error) { return s.RevokePermission(r.Role, r.Key, r.RangeEnd) })
	if err != nil {
		return nil, err
	}
	return &pb.AuthRoleRevokePermissionResponse{Header: header}, nil
}

// RoleGet is what a role permits.
func (e *Engine) RoleGet(ctx context.Context, r *pb.AuthRoleGetRequest) (resp *pb.AuthRoleGetResponse, err error) {
	header, err := e.lookAtAccess(ctx, func(s *auth.State) (err error) {
		resp, err = s.Role(r.Role)
		return err
	})
	if err != nil {
		return nil, err
	}
	resp.Header = header
	return resp, nil
}

// RoleList is all roles' names.
func (e *Engine) RoleList(ctx context.Context, _ *pb.AuthRoleListRequest) (resp *pb.AuthRoleListResponse, err error) {
	header, err := e.lookAtAccess(ctx, func(s *auth.State) error {
		resp = s.Roles()
		return nil
	})
	if err != nil {
		return nil, err
	}
	resp.Header = header
	return resp, nil
}
