package native

import (
	"context"
	"crypto/rand"
	"time"

	"kineshim/kineshim"
	"kineshim/kineshim/auth"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const (
	// keyBytes is how long the key is that signs tokens, as SHA-256's blocks allow it without a loss.
	keyBytes = 32
	// authenticateTries bounds how often a password is checked because users have changed meanwhile.
	authenticateTries = 5
)

// changeAccess gives access control a turn to change, and returns the header of an answer that says so. What changes nothing is not stored.
func (e *Engine) changeAccess(ctx context.Context, change func(*auth.State) (*auth.State, error)) (header *pb.ResponseHeader, err error) {
	err = e.submit(ctx, func(t *turn) error {
		header = headerOf(t)
		next, err := change(e.seq.access)
		if err != nil || next == e.seq.access {
			return err
		}
		return t.changeAccess(next)
	})
	if err != nil {
		return nil, err
	}
	return header, nil
}

// lookAtAccess gives access control a turn to be looked at, in order with its changes.
func (e *Engine) lookAtAccess(ctx context.Context, look func(*auth.State) error) (header *pb.ResponseHeader, err error) {
	return e.changeAccess(ctx, func(s *auth.State) (*auth.State, error) { return s, look(s) })
}

// hashOf is a password's, when it is its turn. A password that is too long is an error which in etcd has no code.
func (e *Engine) hashOf(ctx context.Context, password string) (hash []byte, err error) {
	if turn := e.passwords.do(ctx, e.ctx.Done(), func() { hash, err = auth.Hash(password) }); turn != nil {
		return nil, turn
	}
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, "etcdserver: "+err.Error())
	}
	return hash, nil
}

// AuthEnable has everybody need permission.
func (e *Engine) AuthEnable(ctx context.Context, _ *pb.AuthEnableRequest) (*pb.AuthEnableResponse, error) {
	key := make([]byte, keyBytes)
	_, _ = rand.Read(key) // never fails
	header, err := e.changeAccess(ctx, func(s *auth.State) (*auth.State, error) { return s.Enable(key) })
	if err != nil {
		return nil, err
	}
	return &pb.AuthEnableResponse{Header: header}, nil
}

// AuthDisable has nobody need permission.
func (e *Engine) AuthDisable(ctx context.Context, _ *pb.AuthDisableRequest) (*pb.AuthDisableResponse, error) {
	header, err := e.changeAccess(ctx, func(s *auth.State) (*auth.State, error) { return s.Disable(), nil })
	if err != nil {
		return nil, err
	}
	return &pb.AuthDisableResponse{Header: header}, nil
}

// AuthStatus says whether permission is needed.
func (e *Engine) AuthStatus(ctx context.Context, _ *pb.AuthStatusRequest) (*pb.AuthStatusResponse, error) {
	r := &pb.AuthStatusResponse{}
	var err error
	r.Header, err = e.lookAtAccess(ctx, func(s *auth.State) error {
		r.Enabled, r.AuthRevision = s.Enabled(), s.Revision()
		return nil
	})
	if err != nil {
		return nil, err
	}
	return r, nil
}

// Authenticate gives a user a token. The password is checked outside of a turn of the sequencer: that takes long.
func (e *Engine) Authenticate(ctx context.Context, r *pb.AuthenticateRequest) (*pb.AuthenticateResponse, error) {
	for range authenticateTries {
		if err := e.usable(); err != nil {
			return nil, err
		}
		s, token := e.access.Load(), ""
		var err error
		if turn := e.passwords.do(ctx, e.ctx.Done(), func() { token, err = s.Authenticate(r.Name, r.Password, time.Now()) }); turn != nil {
			return nil, turn
		}
		if now := e.access.Load(); now.Version() != s.Version() {
			continue
		}
		if err != nil {
			return nil, err
		}
		return &pb.AuthenticateResponse{Header: e.header(), Token: token}, nil
	}
	return nil, kineshim.Unavailable("users change too fast to check a password")
}

// UserAdd adds a user.
func (e *Engine) UserAdd(ctx context.Context, r *pb.AuthUserAddRequest) (*pb.AuthUserAddResponse, error) {
	var hashed []byte
	if r.Options == nil || !r.Options.NoPassword {
		var err error
		if hashed, err = e.hashOf(ctx, r.Password); err != nil {
			return nil, err
		}
	}
	header, err := e.changeAccess(ctx, func(s *auth.State) (*auth.State, error) { return s.AddUser(r, hashed) })
	if err != nil {
		return nil, err
	}
	return &pb.AuthUserAddResponse{Header: header}, nil
}

// UserDelete deletes a user.
func (e *Engine) UserDelete(ctx context.Context, r *pb.AuthUserDeleteRequest) (*pb.AuthUserDeleteResponse, error) {
	header, err := e.changeAccess(ctx, func(s *auth.State) (*auth.State, error) { return s.DeleteUser(r.Name) })
	if err != nil {
		return nil, err
	}
	return &pb.AuthUserDeleteResponse{Header: header}, nil
}

// UserChangePassword changes a password. As in etcd, an empty one is none that anybody can log in with.
func (e *Engine) UserChangePassword(ctx context.Context, r *pb.AuthUserChangePasswordRequest) (*pb.AuthUserChangePasswordResponse, error) {
	var hashed []byte
	if r.Password != "" {
		var err error
		if hashed, err = e.hashOf(ctx, r.Password); err != nil {
			return nil, err
		}
	}
	header, err := e.changeAccess(ctx, func(s *auth.State) (*auth.State, error) { return s.ChangePassword(r.Name, hashed) })
	if err != nil {
		return nil, err
	}
	return &pb.AuthUserChangePasswordResponse{Header: header}, nil
}

// UserGrantRole gives a role to a user.
func (e *Engine) UserGrantRole(ctx context.Context, r *pb.AuthUserGrantRoleRequest) (*pb.AuthUserGrantRoleResponse, error) {
	header, err := e.changeAccess(ctx, func(s *auth.State) (*auth.State, error) { return s.GrantRole(r.User, r.Role) })
	if err != nil {
		return nil, err
	}
	return &pb.AuthUserGrantRoleResponse{Header: header}, nil
}

// UserRevokeRole takes a role from a user.
func (e *Engine) UserRevokeRole(ctx context.Context, r *pb.AuthUserRevokeRoleRequest) (*pb.AuthUserRevokeRoleResponse, error) {
	header, err := e.changeAccess(ctx, func(s *auth.State) (*auth.State, error) { return s.RevokeRole(r.Name, r.Role) })
	if err != nil {
		return nil, err
	}
	return &pb.AuthUserRevokeRoleResponse{Header: header}, nil
}

// UserGet is a user's roles.
func (e *Engine) UserGet(ctx context.Context, r *pb.AuthUserGetRequest) (resp *pb.AuthUserGetResponse, err error) {
	header, err := e.lookAtAccess(ctx, func(s *auth.State) (err error) {
		resp, err = s.User(r.Name)
		return err
	})
	if err != nil {
		return nil, err
	}
	resp.Header = header
	return resp, nil
}

// UserList is all users' names.
func (e *Engine) UserList(ctx context.Context, _ *pb.AuthUserListRequest) (resp *pb.AuthUserListResponse, err error) {
	header, err := e.lookAtAccess(ctx, func(s *auth.State) error {
		resp = s.Users()
		return nil
	})
	if err != nil {
		return nil, err
	}
	resp.Header = header
	return resp, nil
}
