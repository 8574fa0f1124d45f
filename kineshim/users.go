package kineshim

import (
	"context"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// toUsers is toEngine for etcd's Auth service, which not all engines have.
func toUsers[Q, R any](ctx context.Context, req Q, method func(AccessEngine, context.Context, Q) (R, error)) (R, error) {
	return toEngine(ctx, req, func(engine Engine, ctx context.Context, req Q) (R, error) {
		access, ok := engine.(AccessEngine)
		if !ok {
			var none R
			return none, status.Error(codes.Unimplemented, "this engine has no users and permissions")
		}
		return method(access, ctx, req)
	})
}

func (services) AuthEnable(ctx context.Context, r *pb.AuthEnableRequest) (*pb.AuthEnableResponse, error) {
	return toUsers(ctx, r, AccessEngine.AuthEnable)
}

func (services) AuthDisable(ctx context.Context, r *pb.AuthDisableRequest) (*pb.AuthDisableResponse, error) {
	return toUsers(ctx, r, AccessEngine.AuthDisable)
}

func (services) AuthStatus(ctx context.Context, r *pb.AuthStatusRequest) (*pb.AuthStatusResponse, error) {
	return toUsers(ctx, r, AccessEngine.AuthStatus)
}

func (services) Authenticate(ctx context.Context, r *pb.AuthenticateRequest) (*pb.AuthenticateResponse, error) {
	return toUsers(ctx, r, AccessEngine.Authenticate)
}

func (services) UserAdd(ctx context.Context, r *pb.AuthUserAddRequest) (*pb.AuthUserAddResponse, error) {
	return toUsers(ctx, r, AccessEngine.UserAdd)
}

func (services) UserGet(ctx context.Context, r *pb.AuthUserGetRequest) (*pb.AuthUserGetResponse, error) {
	return toUsers(ctx, r, AccessEngine.UserGet)
}

func (services) UserList(ctx context.Context, r *pb.AuthUserListRequest) (*pb.AuthUserListResponse, error) {
	return toUsers(ctx, r, AccessEngine.UserList)
}

func (services) UserDelete(ctx context.Context, r *pb.AuthUserDeleteRequest) (*pb.AuthUserDeleteResponse, error) {
	return toUsers(ctx, r, AccessEngine.UserDelete)
}

func (services) UserChangePassword(ctx context.Context, r *pb.AuthUserChangePasswordRequest) (*pb.AuthUserChangePasswordResponse, error) {
	return toUsers(ctx, r, AccessEngine.UserChangePassword)
}

func (services) UserGrantRole(ctx context.Context, r *pb.AuthUserGrantRoleRequest) (*pb.AuthUserGrantRoleResponse, error) {
	return toUsers(ctx, r, AccessEngine.UserGrantRole)
}

func (services) UserRevokeRole(ctx context.Context, r *pb.AuthUserRevokeRoleRequest) (*pb.AuthUserRevokeRoleResponse, error) {
	return toUsers(ctx, r, AccessEngine.UserRevokeRole)
}

func (services) RoleAdd(ctx context.Context, r *pb.AuthRoleAddRequest) (*pb.AuthRoleAddResponse, error) {
	return toUsers(ctx, r, AccessEngine.RoleAdd)
}

func (services) RoleGet(ctx context.Context, r *pb.AuthRoleGetRequest) (*pb.AuthRoleGetResponse, error) {
	return toUsers(ctx, r, AccessEngine.RoleGet)
}

func (services) RoleList(ctx context.Context, r *pb.AuthRoleListRequest) (*pb.AuthRoleListResponse, error) {
	return toUsers(ctx, r, AccessEngine.RoleList)
}

func (services) RoleDelete(ctx context.Context, r *pb.AuthRoleDeleteRequest) (*pb.AuthRoleDeleteResponse, error) {
	return toUsers(ctx, r, AccessEngine.RoleDelete)
}

func (services) RoleGrantPermission(ctx context.Context, r *pb.AuthRoleGrantPermissionRequest) (*pb.AuthRoleGrantPermissionResponse, error) {
	return toUsers(ctx, r, AccessEngine.RoleGrantPermission)
}

func (services) RoleRevokePermission(ctx context.Context, r *pb.AuthRoleRevokePermissionRequest) (*pb.AuthRoleRevokePermissionResponse, error) {
	return toUsers(ctx, r, AccessEngine.RoleRevokePermission)
}
