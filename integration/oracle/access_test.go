package oracle

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// accessOps are the operations of a sequence; there is one sequence for so many of the checks that are asked for. A password costs each of the two
// some tens of milliseconds.
const (
	accessOps      = 200
	accessSequence = 1000
)

// subject is one of the two systems with the tokens that its users have been given.
type subject struct {
	*system
	auth        pb.AuthClient
	maintenance pb.MaintenanceClient
	cluster     pb.ClusterClient
	tokens      map[string]string
}

func newSubject(s *system) *subject {
	return &subject{s, pb.NewAuthClient(s.conn), pb.NewMaintenanceClient(s.conn), pb.NewClusterClient(s.conn), map[string]string{}}
}

// as is a context of a user's, with the newest token that he was given; "": nobody's.
func (s *subject) as(user string) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithTimeout(context.Background(), callBound)
	if token, ok := s.tokens[user]; ok {
		ctx = metadata.AppendToOutgoingContext(ctx, "token", token)
	}
	return ctx, cancel
}

// accessOp is one operation: what it is called, and what it comes to.
type accessOp struct {
	name string
	do   func(ctx context.Context, s *subject) (any, error)
}

// rpc is an operation that is one call. look takes what is compared from the answer; nil: nothing.
func rpc[Q fmt.Stringer, R any](method func(*subject) func(context.Context, Q, ...grpc.CallOption) (R, error), request Q, look func(R) any) accessOp {
	return accessOp{fmt.Sprintf("%T %v", request, request), func(ctx context.Context, s *subject) (any, error) {
		answer, err := method(s)(ctx, request)
		if err != nil || look == nil {
			return nil, err
		}
		return look(answer), nil
	}}
}

var (
	accessUsers = []string{"root", "alice", "bob"}
	accessRoles = []string{"root", "clerk", "reader"}
	accessKeys  = []string{"a", "b", "c", "ab", "\x00"}
	accessEnds  = []string{"", "", "b", "c", "d", "\x00", "a"}
)

func anyOf[T any](r *rand.Rand, from []T) T { return from[r.IntN(len(from))] }

// generateAccess is one random operation.
func generateAccess(r *rand.Rand) accessOp {
	user, role, key, end := anyOf(r, accessUsers), anyOf(r, accessRoles), []byte(anyOf(r, accessKeys)), []byte(anyOf(r, accessEnds))
	perm := &authpb.Permission{PermType: authpb.Permission_Type(r.IntN(3)), Key: key, RangeEnd: end}
	prev := r.IntN(2) == 0
	read := &pb.RangeRequest{Key: key, RangeEnd: end}
	put := &pb.PutRequest{Key: key, Value: []byte("v"), PrevKv: prev}
	del := &pb.DeleteRangeRequest{Key: key, RangeEnd: end, PrevKv: prev}
	if r.IntN(4) == 0 {
		put.Lease = 7
	}
	switch r.IntN(25) {
	case 0:
		return rpc(func(s *subject) func(context.Context, *pb.AuthUserAddRequest, ...grpc.CallOption) (*pb.AuthUserAddResponse, error) {
			return s.auth.UserAdd
		},
			&pb.AuthUserAddRequest{Name: user, Password: user, Options: &authpb.UserAddOptions{NoPassword: r.IntN(6) == 0}}, nil)
	case 1:
		return rpc(func(s *subject) func(context.Context, *pb.AuthUserDeleteRequest, ...grpc.CallOption) (*pb.AuthUserDeleteResponse, error) {
			return s.auth.UserDelete
		},
			&pb.AuthUserDeleteRequest{Name: user}, nil)
	case 2:
		return rpc(func(s *subject) func(context.Context, *pb.AuthUserChangePasswordRequest, ...grpc.CallOption) (*pb.AuthUserChangePasswordResponse, error) {
			return s.auth.UserChangePassword
		}, &pb.AuthUserChangePasswordRequest{Name: user, Password: anyOf(r, []string{user, "other"})}, nil)
	case 3:
		return rpc(func(s *subject) func(context.Context, *pb.AuthUserRevokeRoleRequest, ...grpc.CallOption) (*pb.AuthUserRevokeRoleResponse, error) {
			return s.auth.UserRevokeRole
		},
			&pb.AuthUserRevokeRoleRequest{Name: user, Role: role}, nil)
	case 4, 5:
		return rpc(func(s *subject) func(context.Context, *pb.AuthUserGrantRoleRequest, ...grpc.CallOption) (*pb.AuthUserGrantRoleResponse, error) {
			return s.auth.UserGrantRole
		},
			&pb.AuthUserGrantRoleRequest{User: user, Role: role}, nil)
	case 6:
		return rpc(func(s *subject) func(context.Context, *pb.AuthRoleAddRequest, ...grpc.CallOption) (*pb.AuthRoleAddResponse, error) {
			return s.auth.RoleAdd
		},
			&pb.AuthRoleAddRequest{Name: anyOf(r, append(accessRoles, ""))}, nil)
	case 7:
		return rpc(func(s *subject) func(context.Context, *pb.AuthRoleDeleteRequest, ...grpc.CallOption) (*pb.AuthRoleDeleteResponse, error) {
			return s.auth.RoleDelete
		},
			&pb.AuthRoleDeleteRequest{Role: role}, nil)
	case 8, 9:
		return rpc(func(s *subject) func(context.Context, *pb.AuthRoleGrantPermissionRequest, ...grpc.CallOption) (*pb.AuthRoleGrantPermissionResponse, error) {
			return s.auth.RoleGrantPermission
		}, &pb.AuthRoleGrantPermissionRequest{Name: role, Perm: perm}, nil)
	case 10:
		return rpc(func(s *subject) func(context.Context, *pb.AuthRoleRevokePermissionRequest, ...grpc.CallOption) (*pb.AuthRoleRevokePermissionResponse, error) {
			return s.auth.RoleRevokePermission
		}, &pb.AuthRoleRevokePermissionRequest{Role: role, Key: key, RangeEnd: end}, nil)
	case 11:
		return rpc(func(s *subject) func(context.Context, *pb.AuthUserGetRequest, ...grpc.CallOption) (*pb.AuthUserGetResponse, error) {
			return s.auth.UserGet
		},
			&pb.AuthUserGetRequest{Name: user}, func(a *pb.AuthUserGetResponse) any { return a.Roles })
	case 12:
		return rpc(func(s *subject) func(context.Context, *pb.AuthRoleGetRequest, ...grpc.CallOption) (*pb.AuthRoleGetResponse, error) {
			return s.auth.RoleGet
		},
			&pb.AuthRoleGetRequest{Role: role}, func(a *pb.AuthRoleGetResponse) any { return a.Perm })
	case 13:
		return rpc(func(s *subject) func(context.Context, *pb.AuthUserListRequest, ...grpc.CallOption) (*pb.AuthUserListResponse, error) {
			return s.auth.UserList
		},
			&pb.AuthUserListRequest{}, func(a *pb.AuthUserListResponse) any { slices.Sort(a.Users); return a.Users })
	case 14:
		return rpc(func(s *subject) func(context.Context, *pb.AuthRoleListRequest, ...grpc.CallOption) (*pb.AuthRoleListResponse, error) {
			return s.auth.RoleList
		},
			&pb.AuthRoleListRequest{}, func(a *pb.AuthRoleListResponse) any { slices.Sort(a.Roles); return a.Roles })
	case 15:
		if r.IntN(4) == 0 {
			return rpc(func(s *subject) func(context.Context, *pb.AuthDisableRequest, ...grpc.CallOption) (*pb.AuthDisableResponse, error) {
				return s.auth.AuthDisable
			},
				&pb.AuthDisableRequest{}, nil)
		}
		return rpc(func(s *subject) func(context.Context, *pb.AuthEnableRequest, ...grpc.CallOption) (*pb.AuthEnableResponse, error) {
			return s.auth.AuthEnable
		},
			&pb.AuthEnableRequest{}, nil)
	case 16:
		return rpc(func(s *subject) func(context.Context, *pb.AuthStatusRequest, ...grpc.CallOption) (*pb.AuthStatusResponse, error) {
			return s.auth.AuthStatus
		},
			&pb.AuthStatusRequest{}, func(a *pb.AuthStatusResponse) any { return []any{a.Enabled, a.AuthRevision} })
	case 17, 18:
		return login(user, anyOf(r, []string{user, user, "other"}))
	case 19:
		return reading(read)
	case 20:
		return rpc(func(s *subject) func(context.Context, *pb.PutRequest, ...grpc.CallOption) (*pb.PutResponse, error) {
			return s.kv.Put
		}, put,
			func(a *pb.PutResponse) any { return []any{a.Header.Revision, a.PrevKv} })
	case 21:
		return rpc(func(s *subject) func(context.Context, *pb.DeleteRangeRequest, ...grpc.CallOption) (*pb.DeleteRangeResponse, error) {
			return s.kv.DeleteRange
		}, del,
			func(a *pb.DeleteRangeResponse) any { return []any{a.Header.Revision, a.Deleted, a.PrevKvs} })
	case 22:
		txn := &pb.TxnRequest{Compare: []*pb.Compare{{Key: key, RangeEnd: end, Target: pb.Compare_VERSION, TargetUnion: &pb.Compare_Version{Version: 1}}}}
		for _, branch := range []*[]*pb.RequestOp{&txn.Success, &txn.Failure} {
			switch r.IntN(4) {
			case 0:
				*branch = []*pb.RequestOp{{Request: &pb.RequestOp_RequestPut{RequestPut: put}}}
			case 1:
				*branch = []*pb.RequestOp{{Request: &pb.RequestOp_RequestRange{RequestRange: read}}}
			case 2:
				*branch = []*pb.RequestOp{{Request: &pb.RequestOp_RequestDeleteRange{RequestDeleteRange: del}}}
			}
		}
		if r.IntN(3) == 0 {
			txn = &pb.TxnRequest{Failure: []*pb.RequestOp{{Request: &pb.RequestOp_RequestTxn{RequestTxn: txn}}}}
		}
		return rpc(func(s *subject) func(context.Context, *pb.TxnRequest, ...grpc.CallOption) (*pb.TxnResponse, error) {
			return s.kv.Txn
		}, txn,
			func(a *pb.TxnResponse) any { return []any{a.Header.Revision, a.Succeeded, len(a.Responses)} })
	case 23:
		return watching(&pb.WatchCreateRequest{Key: key, RangeEnd: end})
	}
	return other(r)
}

func login(user, password string) accessOp {
	return accessOp{"authenticate " + user + " " + password, func(ctx context.Context, s *subject) (any, error) {
		answer, err := s.auth.Authenticate(ctx, &pb.AuthenticateRequest{Name: user, Password: password})
		if err == nil {
			s.tokens[user] = answer.Token
		}
		return err == nil, err
	}}
}

func reading(request *pb.RangeRequest) accessOp {
	return rpc(func(s *subject) func(context.Context, *pb.RangeRequest, ...grpc.CallOption) (*pb.RangeResponse, error) {
		return s.kv.Range
	}, request,
		func(a *pb.RangeResponse) any { return []any{a.Header.Revision, a.Kvs, a.Count} })
}

// watching makes a watch, and says whether that was permitted.
func watching(request *pb.WatchCreateRequest) accessOp {
	if len(request.RangeEnd) == 1 && request.RangeEnd[0] == 0 {
		request.RangeEnd = []byte("z") // etcd takes an open end for none: ours asks for permission for all
	}
	return accessOp{fmt.Sprint("watch ", request), func(ctx context.Context, s *subject) (any, error) {
		stream, err := s.watch.Watch(ctx)
		if err != nil {
			return nil, err
		}
		if err := stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: request}}); err != nil {
			return nil, err
		}
		answer, err := stream.Recv()
		if err != nil {
			return nil, err
		}
		return []any{answer.Created, answer.Canceled, answer.CancelReason}, nil
	}}
}

// other are the requests that are about no key of their own.
func other(r *rand.Rand) accessOp {
	switch r.IntN(9) {
	case 0:
		return rpc(func(s *subject) func(context.Context, *pb.LeaseGrantRequest, ...grpc.CallOption) (*pb.LeaseGrantResponse, error) {
			return s.lease.LeaseGrant
		},
			&pb.LeaseGrantRequest{ID: 7, TTL: 1000}, nil)
	case 1:
		return rpc(func(s *subject) func(context.Context, *pb.LeaseRevokeRequest, ...grpc.CallOption) (*pb.LeaseRevokeResponse, error) {
			return s.lease.LeaseRevoke
		},
			&pb.LeaseRevokeRequest{ID: 7}, nil)
	case 2:
		return rpc(func(s *subject) func(context.Context, *pb.LeaseTimeToLiveRequest, ...grpc.CallOption) (*pb.LeaseTimeToLiveResponse, error) {
			return s.lease.LeaseTimeToLive
		},
			&pb.LeaseTimeToLiveRequest{ID: 7, Keys: r.IntN(2) == 0}, func(a *pb.LeaseTimeToLiveResponse) any { slices.SortFunc(a.Keys, slices.Compare); return a.Keys })
	case 3:
		return rpc(func(s *subject) func(context.Context, *pb.LeaseLeasesRequest, ...grpc.CallOption) (*pb.LeaseLeasesResponse, error) {
			return s.lease.LeaseLeases
		},
			&pb.LeaseLeasesRequest{}, nil)
	case 4:
		return accessOp{"keep alive", func(ctx context.Context, s *subject) (any, error) {
			stream, err := s.lease.LeaseKeepAlive(ctx)
			if err != nil {
				return nil, err
			}
			if err := stream.Send(&pb.LeaseKeepAliveRequest{ID: 7}); err != nil {
				return nil, err
			}
			answer, err := stream.Recv()
			return answer.GetTTL(), err
		}}
	case 5:
		return rpc(func(s *subject) func(context.Context, *pb.StatusRequest, ...grpc.CallOption) (*pb.StatusResponse, error) {
			return s.maintenance.Status
		}, &pb.StatusRequest{}, nil)
	case 6:
		return rpc(func(s *subject) func(context.Context, *pb.HashKVRequest, ...grpc.CallOption) (*pb.HashKVResponse, error) {
			return s.maintenance.HashKV
		}, &pb.HashKVRequest{}, nil)
	case 7:
		return rpc(func(s *subject) func(context.Context, *pb.AlarmRequest, ...grpc.CallOption) (*pb.AlarmResponse, error) {
			return s.maintenance.Alarm
		}, &pb.AlarmRequest{}, nil)
	}
	return rpc(func(s *subject) func(context.Context, *pb.MemberListRequest, ...grpc.CallOption) (*pb.MemberListResponse, error) {
		return s.cluster.MemberList
	}, &pb.MemberListRequest{}, nil)
}

// compareAccess does the operation as the user on both, and says how they differ; "" if they do not.
func compareAccess(both [2]*subject, user string, op accessOp) string {
	var came [2]string
	for i, s := range both {
		ctx, cancel := s.as(user)
		answer, err := op.do(ctx, s)
		cancel()
		came[i] = fmt.Sprint(answer)
		if err != nil {
			if status.Convert(err).Message() == "auth: authentication failed, password was given for no password user" {
				err = rpctypes.ErrGRPCAuthFailed // etcd's has no code: ours says what it says to a wrong password
			}
			came[i] = fmt.Sprintf("%v: %s", status.Code(err), status.Convert(err).Message())
		}
	}
	if came[0] == came[1] {
		return ""
	}
	return fmt.Sprintf("as %q, %s:\n  %s: %s\n  %s: %s", user, op.name, both[0].name, came[0], both[1].name, came[1])
}

// TestAccessControlIsEtcds does the same random changes of users, roles and permissions, and requests of all kinds as various users, to etcd and to us.
func TestAccessControlIsEtcds(t *testing.T) {
	seed := rand.Uint64()
	for n := range max(1, checks()/accessSequence) {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			r := rand.New(rand.NewPCG(seed, uint64(n)))
			p, err := etcdAndNative()
			if err != nil {
				t.Fatal(err)
			}
			defer func() {
				if err := p.close(); err != nil {
					t.Error(err)
				}
			}()
			both := [2]*subject{newSubject(p.ref), newSubject(p.own)}
			var story []string
			try := func(user string, op accessOp) {
				story = append(story, fmt.Sprintf("as %q: %s", user, op.name))
				if how := compareAccess(both, user, op); how != "" {
					t.Fatalf("seed %d: %s\nafter\n%s", seed, how, strings.Join(story, "\n"))
				}
			}
			for _, op := range furnish() {
				try("", op)
			}
			try("", login("root", "root"))
			try("", login("alice", "alice"))
			for range accessOps {
				who := anyOf(r, append(accessUsers, "root", "root", "")) // root, so that something happens
				try(who, generateAccess(r))
				if r.IntN(60) == 0 {
					// etcd's tokens do not live through a restart, and ours do: everybody needs another one.
					if err := errors.Join(both[0].restart(false), both[1].restart(false)); err != nil {
						t.Fatal(err)
					}
					for _, s := range both {
						clear(s.tokens)
					}
				}
			}
		})
	}
}

// furnish makes root, and alice who may do something, and enables access control.
func furnish() []accessOp {
	add := func(name string) accessOp {
		return rpc(func(s *subject) func(context.Context, *pb.AuthUserAddRequest, ...grpc.CallOption) (*pb.AuthUserAddResponse, error) {
			return s.auth.UserAdd
		},
			&pb.AuthUserAddRequest{Name: name, Password: name}, nil)
	}
	role := func(name string) accessOp {
		return rpc(func(s *subject) func(context.Context, *pb.AuthRoleAddRequest, ...grpc.CallOption) (*pb.AuthRoleAddResponse, error) {
			return s.auth.RoleAdd
		},
			&pb.AuthRoleAddRequest{Name: name}, nil)
	}
	give := func(user, role string) accessOp {
		return rpc(func(s *subject) func(context.Context, *pb.AuthUserGrantRoleRequest, ...grpc.CallOption) (*pb.AuthUserGrantRoleResponse, error) {
			return s.auth.UserGrantRole
		},
			&pb.AuthUserGrantRoleRequest{User: user, Role: role}, nil)
	}
	permit := rpc(func(s *subject) func(context.Context, *pb.AuthRoleGrantPermissionRequest, ...grpc.CallOption) (*pb.AuthRoleGrantPermissionResponse, error) {
		return s.auth.RoleGrantPermission
	}, &pb.AuthRoleGrantPermissionRequest{Name: "clerk", Perm: &authpb.Permission{PermType: authpb.READWRITE, Key: []byte("a"), RangeEnd: []byte("c")}}, nil)
	enable := rpc(func(s *subject) func(context.Context, *pb.AuthEnableRequest, ...grpc.CallOption) (*pb.AuthEnableResponse, error) {
		return s.auth.AuthEnable
	},
		&pb.AuthEnableRequest{}, nil)
	return []accessOp{add("root"), role("root"), give("root", "root"), add("alice"), role("clerk"), permit, give("alice", "clerk"), enable}
}
