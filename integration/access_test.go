package integration

import (
	"context"
	"errors"
	"strings"
	"testing"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"kineshim/integration/cluster"
)

// guarded is a cluster whose clients need permission: root has a certificate, alice a password, carol a certificate; the latter two may do what they
// like with /own/. Each has a client on each node.
type guarded struct {
	r                          *rig
	root, alice, carol, nobody map[string]*clientv3.Client
}

// guard enables access control.
func guard(ctx context.Context, t *testing.T, r *rig, ca *authority, url func(string) string) *guarded {
	t.Helper()
	g := &guarded{r: r, root: map[string]*clientv3.Client{}, alice: map[string]*clientv3.Client{}, carol: map[string]*clientv3.Client{}, nobody: map[string]*clientv3.Client{}}
	for _, node := range cluster.DataNodes {
		g.root[node] = etcdClient(t, ca.trusting(ca.issue(t, "root")), url(node))
		g.carol[node] = etcdClient(t, ca.trusting(ca.issue(t, "carol")), url(node))
		g.nobody[node] = etcdClient(t, ca.trusting(ca.issue(t, "nobody")), url(node))
	}
	root := g.root[cluster.A]
	do := func(_ any, err error) {
		t.Helper()
		must(t, err)
	}
	do(root.UserAddWithOptions(ctx, "root", "", &clientv3.UserAddOptions{NoPassword: true}))
	do(root.RoleAdd(ctx, "root"))
	do(root.UserGrantRole(ctx, "root", "root"))
	do(root.UserAdd(ctx, "alice", "secret"))
	do(root.UserAddWithOptions(ctx, "carol", "", &clientv3.UserAddOptions{NoPassword: true}))
	do(root.RoleAdd(ctx, "clerk"))
	do(root.RoleGrantPermission(ctx, "clerk", "/own/", clientv3.GetPrefixRangeEnd("/own/"), clientv3.PermissionType(clientv3.PermReadWrite)))
	do(root.UserGrantRole(ctx, "alice", "clerk"))
	do(root.UserGrantRole(ctx, "carol", "clerk"))
	do(root.AuthEnable(ctx))
	for _, node := range cluster.DataNodes {
		c, err := clientv3.New(clientv3.Config{Endpoints: []string{url(node)}, TLS: ca.trusting(ca.issue(t, "nobody")), Username: "alice", Password: "secret", Logger: zap.NewNop()})
		must(t, err)
		t.Cleanup(func() { c.Close() })
		g.alice[node] = c
	}
	return g
}

// check looks that all may do what they may, and no more, at the node.
func (g *guarded) check(ctx context.Context, t *testing.T, node string) {
	t.Helper()
	for name, c := range map[string]*clientv3.Client{"alice": g.alice[node], "carol": g.carol[node]} {
		g.r.eventually(t, name+" puts through "+node, func(ctx context.Context) error {
			_, err := c.Put(ctx, "/own/"+name, "value")
			return err
		})
		if got, err := c.Get(ctx, "/own/", clientv3.WithPrefix()); err != nil || len(got.Kvs) == 0 {
			t.Errorf("%s gets through %s: %v, %v", name, node, got, err)
		}
		if got, err := c.Get(ctx, "/own/", clientv3.WithPrefix(), clientv3.WithSerializable()); err != nil {
			t.Errorf("%s gets through %s: %v, %v", name, node, got, err)
		}
		forbidden(ctx, t, name+" at "+node, c)
		watching, cancel := context.WithCancel(ctx)
		if w, ok := <-c.Watch(watching, "/own/", clientv3.WithPrefix(), clientv3.WithCreatedNotify()); !ok || w.Err() != nil {
			t.Errorf("%s watches at %s: %v", name, node, w.Err())
		}
		cancel()
	}
	forbidden(ctx, t, "nobody at "+node, g.nobody[node])
	if _, err := g.nobody[node].Put(ctx, "/own/x", "value"); !errors.Is(err, rpctypes.ErrPermissionDenied) {
		t.Errorf("nobody puts through %s: %v", node, err)
	}
	if _, err := g.root[node].Get(ctx, "/b"); err != nil {
		t.Errorf("root at %s: %v", node, err)
	}
}

// forbidden tries what only root may.
func forbidden(ctx context.Context, t *testing.T, who string, c *clientv3.Client) {
	t.Helper()
	for what, try := range map[string]func() error{
		"get":              func() error { _, err := c.Get(ctx, "/b"); return err },
		"serializable get": func() error { _, err := c.Get(ctx, "/b", clientv3.WithSerializable()); return err },
		"get all":          func() error { _, err := c.Get(ctx, "", clientv3.WithPrefix()); return err },
		"put":              func() error { _, err := c.Put(ctx, "/b", "value"); return err },
		"delete":           func() error { _, err := c.Delete(ctx, "/", clientv3.WithPrefix()); return err },
		"compare": func() error {
			_, err := c.Txn(ctx).If(clientv3.Compare(clientv3.Version("/b"), "=", 1)).Then(clientv3.OpPut("/own/x", "x")).Commit()
			return err
		},
		"the other branch": func() error {
			_, err := c.Txn(ctx).Then(clientv3.OpGet("/own/x")).Else(clientv3.OpPut("/b", "x")).Commit()
			return err
		},
		"compact": func() error { _, err := c.Compact(ctx, 1); return err },
		"disable": func() error { _, err := c.AuthDisable(ctx); return err },
		"watch": func() error {
			watching, cancel := context.WithCancel(ctx)
			defer cancel()
			w := <-c.Watch(watching, "/b", clientv3.WithCreatedNotify())
			return w.Err()
		},
		"watch from there on": func() error {
			watching, cancel := context.WithCancel(ctx)
			defer cancel()
			w := <-c.Watch(watching, "/own/", clientv3.WithFromKey(), clientv3.WithCreatedNotify())
			return w.Err()
		},
	} {
		// Who is no user at all is told that where root is needed. A watch is told in text.
		if err := try(); err == nil || !strings.Contains(err.Error(), "permission denied") && !errors.Is(err, rpctypes.ErrUserNotFound) {
			t.Errorf("%s: %s: %v", who, what, err)
		}
	}
}

// revoke takes alice's role and gives it back. At once the other node knows.
func (g *guarded) revoke(ctx context.Context, t *testing.T) {
	t.Helper()
	for range 20 {
		_, err := g.root[cluster.A].UserRevokeRole(ctx, "alice", "clerk")
		must(t, err)
		if got, err := g.alice[cluster.B].Get(ctx, "/own/alice"); !errors.Is(err, rpctypes.ErrPermissionDenied) {
			t.Fatalf("what was taken back is permitted still: %v, %v", got, err)
		}
		_, err = g.root[cluster.B].UserGrantRole(ctx, "alice", "clerk")
		must(t, err)
		if _, err := g.alice[cluster.B].Get(ctx, "/own/alice"); err != nil {
			t.Fatalf("what was given back is not permitted: %v", err)
		}
	}
}

// unlock disables access control through the control socket, as whoever has lost root's password does.
func (g *guarded) unlock(ctx context.Context, t *testing.T, node string) {
	t.Helper()
	operator := etcdClient(t, nil, "unix://"+g.r.SocketPath(node))
	_, err := operator.AuthDisable(ctx)
	must(t, err)
	if _, err := g.nobody[node].Put(ctx, "/b", "value"); err != nil {
		t.Errorf("access control was disabled: %v", err)
	}
}
