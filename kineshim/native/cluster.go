package native

import (
	"context"
	"net"
	"net/url"
	"slices"

	"kineshim/kineshim"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/metadata"
)

// MemberList lists the voters. A member that serves and has no client address of its own that others could use is listed with the
// one that this client used: it leads back here.
func (e *Engine) MemberList(ctx context.Context, _ *pb.MemberListRequest) (*pb.MemberListResponse, error) {
	if err := e.usable(); err != nil {
		return nil, err
	}
	return &pb.MemberListResponse{Header: &pb.ResponseHeader{}, Members: e.membersFor(ctx)}, nil
}

// MemberAdd is refused: the members of a cluster are fixed when it is founded. The errors are etcd's: what is wrong with the
// request itself, too many learners (none is allowed), or not capable.
func (e *Engine) MemberAdd(_ context.Context, r *pb.MemberAddRequest) (*pb.MemberAddResponse, error) {
	if err := e.usable(); err != nil {
		return nil, err
	}
	if !validURLs(r.PeerURLs) {
		return nil, rpctypes.ErrGRPCMemberBadURLs
	}
	for _, m := range e.cfg.Cluster.Members() {
		for _, u := range m.PeerURLs {
			if slices.Contains(r.PeerURLs, u) {
				return nil, rpctypes.ErrGRPCPeerURLExist
			}
		}
	}
	if r.IsLearner {
		return nil, rpctypes.ErrGRPCTooManyLearners
	}
	return nil, rpctypes.ErrGRPCNotCapable
}

// MemberRemove is refused: not found, or not capable.
func (e *Engine) MemberRemove(_ context.Context, r *pb.MemberRemoveRequest) (*pb.MemberRemoveResponse, error) {
	if err := e.usable(); err != nil {
		return nil, err
	}
	if _, ok := e.member(r.ID); !ok {
		return nil, rpctypes.ErrGRPCMemberNotFound
	}
	return nil, rpctypes.ErrGRPCNotCapable
}

// MemberUpdate is refused unless it changes nothing: addresses stand in the nodes' configuration.
func (e *Engine) MemberUpdate(ctx context.Context, r *pb.MemberUpdateRequest) (*pb.MemberUpdateResponse, error) {
	if err := e.usable(); err != nil {
		return nil, err
	}
	m, ok := e.member(r.ID)
	switch {
	case !ok:
		return nil, rpctypes.ErrGRPCMemberNotFound
	case !slices.Equal(m.PeerURLs, r.PeerURLs):
		return nil, rpctypes.ErrGRPCNotCapable
	}
	return &pb.MemberUpdateResponse{Header: &pb.ResponseHeader{}, Members: e.membersFor(ctx)}, nil
}

// MemberPromote is refused as for a member that is no learner: there are none.
func (e *Engine) MemberPromote(_ context.Context, r *pb.MemberPromoteRequest) (*pb.MemberPromoteResponse, error) {
	if err := e.usable(); err != nil {
		return nil, err
	}
	if _, ok := e.member(r.ID); !ok {
		return nil, rpctypes.ErrGRPCMemberNotFound
	}
	return nil, rpctypes.ErrGRPCMemberNotLearner
}

// member finds a member by its ID.
func (e *Engine) member(id uint64) (Member, bool) {
	members := e.cfg.Cluster.Members()
	i := slices.IndexFunc(members, func(m Member) bool { return m.ID == id })
	if i < 0 {
		return Member{}, false
	}
	return members[i], true
}

func (e *Engine) membersFor(ctx context.Context) []*pb.Member {
	leader := e.cfg.Cluster.Leader()
	var out []*pb.Member
	for _, m := range e.cfg.Cluster.Members() {
		clients := m.ClientURLs
		if m.ID == leader && len(clients) == 0 {
			clients = asked(ctx)
		}
		out = append(out, &pb.Member{ID: m.ID, Name: m.Name, PeerURLs: m.PeerURLs, ClientURLs: clients})
	}
	return out
}

// asked is the URL under which the client has asked; none if it is not known.
func asked(ctx context.Context) []string {
	md, _ := metadata.FromIncomingContext(ctx)
	authority := md.Get(":authority")
	if len(authority) == 0 {
		return nil
	}
	if _, _, err := net.SplitHostPort(authority[0]); err != nil {
		return nil
	}
	scheme := "http"
	if kineshim.OverTLS(ctx) {
		scheme = "https"
	}
	return []string{scheme + "://" + authority[0]}
}

// validURLs says whether etcd would take them for a member's addresses.
func validURLs(urls []string) bool {
	for _, s := range urls {
		u, err := url.Parse(s)
		if err != nil || u.Path != "" {
			return false
		}
		switch u.Scheme {
		case "http", "https":
			if _, _, err := net.SplitHostPort(u.Host); err != nil {
				return false
			}
		case "unix", "unixs":
		default:
			return false
		}
	}
	return len(urls) > 0
}
