package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"sync"

	"kineshim/failover"
	"kineshim/kineshim"
	"kineshim/kineshim/native"
	pb "kineshim/proto"
	"kineshim/raftwitness/record"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// members shows the native engine who the members are, as etcd's Cluster and Maintenance services tell it to clients. The leader,
// in etcd's sense, is the primary: the member that serves.
type members struct{ n *node }

var _ native.Cluster = members{}

// ClusterID is the cluster's name, for snapshots.
func (m members) ClusterID() string { return m.n.id.ClusterID }

// Members lists the voters, the witness too. Of their client addresses only this node's own are known, and they are of use to others
// only if they are not on loopback.
func (m members) Members() []native.Member {
	var ms []native.Member
	for _, v := range m.now() {
		one := native.Member{ID: number(v.ServerID), Name: v.Name, PeerURLs: []string{"https://" + m.n.cfg.Members[v.Name].Raft}}
		if v.Name == m.n.cfg.Name {
			for _, a := range m.n.cfg.ClientAddresses() {
				if !onlyHere(a.HostPort) {
					one.ClientURLs = append(one.ClientURLs, a.URL())
				}
			}
		}
		ms = append(ms, one)
	}
	return ms
}

// onlyHere says whether an address leads nowhere but to the machine that it is used on: loopback, or all addresses.
func onlyHere(hostPort string) bool {
	host, _, err := net.SplitHostPort(hostPort)
	ip := net.ParseIP(host)
	return err != nil || host == "" || host == "localhost" || ip != nil && (ip.IsLoopback() || ip.IsUnspecified())
}

// Leader is the primary's ID; 0 while the cluster has none.
func (m members) Leader() uint64 {
	r, _ := m.n.raft.Record()
	if p, ok := r.Member(r.Primary); ok {
		return number(p.ServerID)
	}
	return 0
}

// now are the members as the record names them; before there is a record, as they were at enrolment.
func (m members) now() []record.Member {
	if m.n.raft == nil { // it has not been started
		return m.n.id.Members()
	}
	if r, _ := m.n.raft.Record(); r.Initialised() {
		return r.Members
	}
	return m.n.id.Members()
}

// Raft is that of the cluster record. Data are not in its log.
func (m members) Raft() (index, applied, term uint64) {
	_, applied = m.n.raft.Record()
	s := m.n.raft.Status()
	return max(s.CommitIndex, applied), applied, s.Term
}

// MoveLeader is shimctl promote for the data node with the ID; see moveLeader.
func (m members) MoveLeader(ctx context.Context, target uint64) error {
	for _, v := range m.now() {
		if number(v.ServerID) == target && v.Role == record.Data {
			promote := failover.ControlServer{Agent: m.n.agent}.Promote
			return moveLeader(ctx, m.n.agent.Route().Done, v.Name, promote)
		}
	}
	return rpctypes.ErrGRPCBadLeaderTransferee
}

// moveLeader returns when the switchover has been refused, or when this node has ceased to serve for it: from then on no answer
// gets through to the client, and the engine that asks is waited for. The switchover goes on by itself; the agent bounds it.
func moveLeader(ctx context.Context, served <-chan struct{}, name string, promote func(context.Context, *pb.PromoteRequest) (*pb.PromoteResponse, error)) error {
	ctx, cancel := context.WithCancel(ctx)
	var watching sync.WaitGroup
	defer watching.Wait()
	defer cancel()
	watching.Go(func() {
		select {
		case <-served:
			cancel()
		case <-ctx.Done():
		}
	})
	r, err := promote(ctx, &pb.PromoteRequest{Node: name, Operator: "etcd's MoveLeader"})
	select {
	case <-served:
		return nil
	default:
	}
	if err == nil && !r.Done {
		err = status.Error(codes.FailedPrecondition, "etcdserver: the leadership was not handed over: "+r.Reason)
	}
	return err
}

// restorer gives the control server the endpoint's restore. Snapshots are kept in the data directory until they are verified: a
// temporary directory may be memory, or too small.
type restorer struct {
	endpoint *kineshim.Endpoint
	dir      string
}

func (r restorer) Restore(ctx context.Context, snapshot io.Reader, o failover.RestoreOptions) (keys, revision int64, err error) {
	done, err := r.endpoint.Restore(ctx, snapshot, kineshim.RestoreOptions{Replace: o.Replace, Bump: !o.KeepRevision, TempDir: r.dir})
	return done.Keys, done.Revision, err
}

// clientAddress is where a client on this machine reaches what listens at the address.
func clientAddress(listen string) string {
	host, port, err := net.SplitHostPort(listen)
	if ip := net.ParseIP(host); err != nil || host != "" && (ip == nil || !ip.IsUnspecified()) {
		return listen
	} else if ip != nil && ip.To4() == nil {
		return fmt.Sprintf("[::1]:%s", port)
	}
	return "127.0.0.1:" + port
}
