package integration

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"kineshim/integration/cluster"
	"kineshim/pki"
	"kineshim/pki/rpc"
	"kineshim/proto"
)

// create makes the key, through the node, as soon as that answers.
func (r *rig) create(t *testing.T, node, key string) {
	t.Helper()
	value := rand.Text() // an attempt whose answer did not come in time may have been done
	r.eventually(t, "create "+key, func(ctx context.Context) error {
		resp, err := r.clients[node].Txn(ctx).If(clientv3.Compare(clientv3.ModRevision(key), "=", 0)).Then(clientv3.OpPut(key, value)).Commit()
		if err != nil || resp.Succeeded {
			return err
		}
		now, err := r.clients[node].Get(ctx, key)
		if err == nil && (len(now.Kvs) != 1 || string(now.Kvs[0].Value) != value) {
			err = errors.New("exists")
		}
		return err
	})
}

// has asks the node for the key.
func (r *rig) has(t *testing.T, node, key string) (found bool) {
	t.Helper()
	r.eventually(t, "get "+key, func(ctx context.Context) error {
		resp, err := r.clients[node].Get(ctx, key)
		if err == nil {
			found = len(resp.Kvs) == 1
		}
		return err
	})
	return found
}

func (r *rig) eventually(t *testing.T, what string, try func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), failoverWithin)
	defer cancel()
	for {
		once, done := context.WithTimeout(ctx, 2*time.Second)
		err := try(once)
		done()
		if err == nil {
			return
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			t.Fatalf("%s: %v", what, err)
		}
	}
}

// force promotes the node with the operator's word, once it may be.
func (r *rig) force(t *testing.T, node string) *proto.PreviewForceResponse {
	t.Helper()
	control, err := r.Control(node)
	must(t, err)
	var preview *proto.PreviewForceResponse
	r.eventually(t, "preview", func(ctx context.Context) error {
		if preview, err = control.PreviewForce(ctx, &proto.PreviewForceRequest{Node: node}); err == nil && !preview.Possible {
			err = errors.New(preview.Reason)
		}
		return err
	})
	if wrong, err := control.Promote(t.Context(), &proto.PromoteRequest{Node: node, Force: true, Confirm: "something else"}); err != nil || wrong.Done {
		t.Fatalf("promoted without the confirmation: %v, %v", wrong, err)
	}
	done, err := control.Promote(t.Context(), &proto.PromoteRequest{Node: node, Force: true, Operator: "test", Confirm: preview.Confirm})
	if err != nil || !done.Done {
		t.Fatalf("promote by force: %v, %v", done, err)
	}
	return preview
}

// The standby misses a write, and with missTimeline a whole timeline of the primary's too; then the primary is lost. Nobody
// takes over by itself; an operator may. The old primary comes back as a standby, without what only it had.
func TestForcedPromotion(t *testing.T) {
	for name, missTimeline := range map[string]bool{"behind": false, "behind by a timeline": true} {
		t.Run(name, func(t *testing.T) {
			r := armed(t)
			p := r.primary(t)
			standby := cluster.Other(p)
			prefix := "/forced/" + strings.ReplaceAll(name, " ", "-") + "/"
			r.create(t, p, prefix+"both")
			must(t, r.KillNode(standby))
			r.waitMode(t, p, "solo", failoverWithin)
			if missTimeline {
				must(t, r.KillNode(p))
				r.start(t, p)
			}
			r.create(t, p, prefix+"lost")
			must(t, r.KillNode(p))
			r.start(t, standby)
			soon, stop := context.WithTimeout(t.Context(), 3*time.Second) // long enough to be elected and promoted
			if _, err := r.clients[standby].Get(soon, prefix+"both"); err == nil {
				t.Error("a node outside the in-sync set answered")
			}
			stop()
			preview := r.force(t, standby)
			t.Logf("preview: %v", preview)
			if !r.has(t, standby, prefix+"both") || r.has(t, standby, prefix+"lost") {
				t.Error("the forced node does not serve just what it had")
			}
			r.create(t, standby, prefix+"after")
			r.start(t, p)
			ctx, cancel := context.WithTimeout(t.Context(), armWithin)
			defer cancel()
			must(t, r.WaitArmed(ctx))
			must(t, r.Switchover(ctx, p)) // what the old primary serves now is the forced node's history
			if !r.has(t, p, prefix+"both") || !r.has(t, p, prefix+"after") || r.has(t, p, prefix+"lost") {
				t.Error("the old primary came back with another history")
			}
		})
	}
}

// While an operator has paused failover, a lost primary is not replaced; afterwards it is.
func TestPauseSuspendsFailover(t *testing.T) {
	r := armed(t)
	p := r.primary(t)
	standby := cluster.Other(p)
	r.setPaused(t, standby, true) // asked of the standby, recorded by the leader
	must(t, r.KillNode(p))
	for end := time.Now().Add(4 * time.Second); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		if now := r.Primary(t.Context()); now == standby {
			t.Fatal("the standby took over")
		}
	}
	r.setPaused(t, standby, false)
	r.eventually(t, standby+" takes over", func(ctx context.Context) error {
		if r.Primary(ctx) != standby {
			return errors.New("not yet")
		}
		return nil
	})
	r.start(t, p)
}

func (r *rig) setPaused(t *testing.T, via string, paused bool) {
	t.Helper()
	control, err := r.Control(via)
	must(t, err)
	r.eventually(t, "pause or resume", func(ctx context.Context) error {
		_, err := control.SetPaused(ctx, &proto.SetPausedRequest{Paused: paused, Operator: "test"})
		return err
	})
}

// afarAs calls a node's Status from afar.
func (x *intruder) afarAs(node string, pass *pki.Credentials) error {
	conn, err := grpc.NewClient(x.r.afar[node], grpc.WithTransportCredentials(rpc.Credentials(pass.Client(func(pki.ID) error { return nil }))))
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(x.t.Context(), knockWithin)
	defer cancel()
	_, err = proto.NewControlClient(conn).Status(ctx, &proto.StatusRequest{})
	return err
}

// The credentials of a revoked operator are refused by both nodes, and by one that has just been started and has no majority; those of others are not.
func TestRevokedOperatorIsRefused(t *testing.T) {
	r := armed(t)
	x := newIntruder(t, r)
	primary := r.primary(t)
	standby := cluster.Other(primary)
	of := func(name string) *pki.Credentials {
		return x.with(x.authority, pki.ID{Cluster: x.a.ClusterID, Role: pki.Viewer, Server: name}, time.Hour, time.Now())
	}
	alice, bob := of("alice"), of("bob")
	for _, node := range cluster.DataNodes {
		must(t, x.afarAs(node, alice))
	}
	control, err := r.Control(standby) // recorded by the leader
	must(t, err)
	for range 2 { // the second time it is so already
		r.eventually(t, "revoke alice", func(ctx context.Context) error {
			_, err := control.Revoke(ctx, &proto.RevokeRequest{Name: "alice", Operator: "test"})
			return err
		})
	}
	refused := func(node string, pass *pki.Credentials) func(context.Context) error {
		return func(context.Context) error {
			if err := x.afarAs(node, pass); status.Code(err) != codes.Unauthenticated || !strings.Contains(err.Error(), "revoked") {
				return fmt.Errorf("%s answers her: %w", node, err)
			}
			return nil
		}
	}
	for _, node := range cluster.DataNodes {
		r.eventually(t, node+" refuses her", refused(node, alice))
		r.eventually(t, node+" refuses what is made for her later", refused(node, of("alice")))
		must(t, x.afarAs(node, bob))
	}
	must(t, r.KillNode(cluster.Witness))
	must(t, r.KillNode(standby))
	must(t, r.KillNode(primary))
	r.start(t, standby) // alone: Raft applies nothing
	r.eventually(t, standby+" answers bob", func(context.Context) error { return x.afarAs(standby, bob) })
	must(t, refused(standby, alice)(t.Context()))
	r.start(t, cluster.Witness)
	r.start(t, primary)
	r.eventually(t, "the status names her", func(ctx context.Context) error {
		s, err := r.Status(ctx, standby)
		if err == nil && len(s.GetRevoked()) != 1 {
			err = fmt.Errorf("revoked: %v", s.GetRevoked())
		}
		return err
	})
}
