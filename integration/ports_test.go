package integration

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"kineshim/failover/postgres"
	"kineshim/integration/cluster"
	"kineshim/pki"
	"kineshim/pki/rpc"
	pb "kineshim/proto"
	"kineshim/raftwitness"
)

// knockWithin bounds one attempt to get in.
const knockWithin = 10 * time.Second

// intruder is somebody who tries to get in at a node's ports.
type intruder struct {
	t         *testing.T
	r         *rig
	authority *pki.Authority
	a, b      raftwitness.Identity
	secrets   postgres.Secrets
}

func newIntruder(t *testing.T, r *rig) *intruder {
	t.Helper()
	x := &intruder{t: t, r: r}
	var err error
	x.authority, err = pki.LoadAuthority(raftwitness.CertificatesDir(r.DataDir(cluster.A)))
	must(t, err)
	x.a, err = raftwitness.LoadIdentity(r.DataDir(cluster.A))
	must(t, err)
	x.b, err = raftwitness.LoadIdentity(r.DataDir(cluster.B))
	must(t, err)
	text, err := os.ReadFile(filepath.Join(r.DataDir(cluster.A), "secrets.json"))
	must(t, err)
	must(t, json.Unmarshal(text, &x.secrets))
	return x
}

// with is the credentials of the ID by the authority, valid for lifetime from began.
func (x *intruder) with(a *pki.Authority, id pki.ID, lifetime time.Duration, began time.Time) *pki.Credentials {
	x.t.Helper()
	p, err := a.Pass(id, nil, lifetime, began)
	must(x.t, err)
	c, err := p.Credentials()
	must(x.t, err)
	return c
}

// badges are what intruders show, by what is wrong with it.
func (x *intruder) badges() map[string]*tls.Config {
	now := time.Now()
	foreign, err := pki.NewAuthority(x.a.ClusterID, now)
	must(x.t, err)
	accept := func(pki.ID) error { return nil }
	config := func(a *pki.Authority, role pki.Role, server string, lifetime time.Duration, began time.Time) *tls.Config {
		c := x.with(a, pki.ID{Cluster: x.a.ClusterID, Role: role, Server: server}, lifetime, began).Client(accept)
		c.VerifyConnection = nil // intruders believe everybody
		return c
	}
	none := config(x.authority, pki.Data, x.b.ServerID, time.Hour, now)
	none.GetClientCertificate = nil
	return map[string]*tls.Config{
		"no certificate":                none,
		"another cluster's authority":   config(foreign, pki.Data, x.b.ServerID, time.Hour, now),
		"ended":                         config(x.authority, pki.Data, x.b.ServerID, time.Hour, now.Add(-2*time.Hour)),
		"of a member that was replaced": config(x.authority, pki.Data, "b-00000000", time.Hour, now),
		"an operator's":                 config(x.authority, pki.Operator, x.b.ServerID, time.Hour, now),
	}
}

// member is what the other data node shows.
func (x *intruder) member() *tls.Config {
	c, err := x.b.LoadCredentials(x.r.DataDir(cluster.B))
	must(x.t, err)
	return c.Client(func(pki.ID) error { return nil })
}

// raft says hello at a node's Raft port as the other data node, and returns why it was refused.
func (x *intruder) raft(address string, config *tls.Config) error {
	config = config.Clone()
	config.NextProtos = []string{"kineshim-raft/1"}
	raw, err := net.DialTimeout("tcp", address, knockWithin)
	if err != nil {
		return err
	}
	defer raw.Close()
	raw.SetDeadline(time.Now().Add(knockWithin))
	c := tls.Client(raw, config)
	hello, _ := json.Marshal(map[string]any{"cluster": x.a.ClusterID, "from": x.b.ServerID, "to": x.a.ServerID, "promise": x.a.Promise, "ask": true})
	frame := append(binary.BigEndian.AppendUint16([]byte("KSR1"), uint16(len(hello))), hello...)
	if _, err := c.Write(frame); err != nil {
		return err
	}
	head := make([]byte, 6)
	if _, err := io.ReadFull(c, head); err != nil {
		return err
	}
	b := make([]byte, binary.BigEndian.Uint16(head[4:]))
	if _, err := io.ReadFull(c, b); err != nil {
		return err
	}
	var reply struct{ Error string }
	if err := json.Unmarshal(b, &reply); err != nil {
		return err
	}
	if reply.Error != "" {
		return errors.New(reply.Error)
	}
	return nil
}

// peer calls a node at its peer port, as nobody in particular: whoever gets so far as to be asked who he is, is in.
func (x *intruder) peer(address string, config *tls.Config) error {
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(rpc.Credentials(config.Clone())))
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(x.t.Context(), knockWithin)
	defer cancel()
	_, err = pb.NewPeerClient(conn).Exchange(ctx, &pb.NodeState{})
	if status.Code(err) == codes.PermissionDenied {
		return nil
	}
	return err
}

// postgres logs in for replication with the right password.
func (x *intruder) postgres(address string, config *tls.Config) error {
	ctx, cancel := context.WithTimeout(x.t.Context(), knockWithin)
	defer cancel()
	conn, err := x.replicate(ctx, address, config)
	if err != nil {
		return err
	}
	return conn.Close(ctx)
}

func (x *intruder) replicate(ctx context.Context, address string, config *tls.Config) (*pgconn.PgConn, error) {
	c, err := pgconn.ParseConfig(fmt.Sprintf("postgres://%s@%s/postgres?replication=true&sslmode=require", postgres.ReplicationRole, address))
	if err != nil {
		return nil, err
	}
	c.Password, c.TLSConfig, c.Fallbacks = x.secrets.Replication, config.Clone(), nil
	return pgconn.ConnectConfig(ctx, c)
}

// enter connects to a node's ports as the other data node, and as its PostgreSQL, and returns what asks there again on the same connections: nil if either answers.
func (x *intruder) enter(at, as string) (inside func(context.Context) error) {
	x.t.Helper()
	id, err := raftwitness.LoadIdentity(x.r.DataDir(as))
	must(x.t, err)
	peer, err := grpc.NewClient(x.addressOf(at, func(p cluster.Ports) int { return p.Peer }),
		grpc.WithTransportCredentials(rpc.Credentials(x.with(x.authority, id.Subject(), time.Hour, time.Now()).Client(func(pki.ID) error { return nil }))))
	must(x.t, err)
	x.t.Cleanup(func() { peer.Close() })
	database, err := x.replicate(x.t.Context(), x.addressOf(at, func(p cluster.Ports) int { return p.Postgres }), x.replicationBadge(pki.Replication, id.ServerID))
	must(x.t, err)
	x.t.Cleanup(func() { database.Close(context.Background()) })
	return func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, knockWithin)
		defer cancel()
		if _, err := pb.NewPeerClient(peer).Exchange(ctx, &pb.NodeState{}); status.Code(err) == codes.PermissionDenied { // asked who he is
			return nil
		}
		_, err := database.Exec(ctx, "IDENTIFY_SYSTEM").ReadAll()
		return err
	}
}

// replicationBadge is what the walreceiver of a voter shows.
func (x *intruder) replicationBadge(role pki.Role, server string) *tls.Config {
	p, err := x.authority.ClientPair(postgres.ReplicationRole, pki.ID{Cluster: x.a.ClusterID, Role: role, Server: server}, time.Hour, time.Now())
	must(x.t, err)
	pair, err := tls.X509KeyPair(p.Cert, p.Key)
	must(x.t, err)
	return &tls.Config{Certificates: []tls.Certificate{pair}, InsecureSkipVerify: true} // whom it speaks with is not what is tried here
}

// addressOf is a port of a node, as its configuration says.
func (x *intruder) addressOf(node string, port func(cluster.Ports) int) string {
	return fmt.Sprintf("127.0.0.1:%d", port(x.r.Ports(node)))
}

// Each port between the members refuses each certificate that is not the right one, and takes the right one.
func TestPortsAreForMembersOnly(t *testing.T) {
	r := armed(t)
	x := newIntruder(t, r)
	primary := r.primary(t)
	raft := x.addressOf(cluster.A, func(p cluster.Ports) int { return p.Raft })
	witness := x.addressOf(cluster.Witness, func(p cluster.Ports) int { return p.Raft })
	peer := x.addressOf(cluster.A, func(p cluster.Ports) int { return p.Peer })
	database := x.addressOf(primary, func(p cluster.Ports) int { return p.Postgres })

	if err := x.raft(raft, x.member()); err != nil {
		t.Errorf("Raft refuses a member: %v", err)
	}
	if err := x.peer(peer, x.member()); err != nil {
		t.Errorf("the peer port refuses the other data node: %v", err)
	}
	if err := x.postgres(database, x.replicationBadge(pki.Replication, x.b.ServerID)); err != nil {
		t.Errorf("PostgreSQL refuses the standby: %v", err)
	}
	for what, config := range x.badges() {
		for port, err := range map[string]error{
			"Raft": x.raft(raft, config), "the witness's Raft": x.raft(witness, config), "peer": x.peer(peer, config), "PostgreSQL": x.postgres(database, config),
		} {
			if err == nil {
				t.Errorf("certificate %q: %s takes it", what, port)
			} else if errors.Is(err, context.DeadlineExceeded) || strings.Contains(err.Error(), "i/o timeout") {
				t.Errorf("certificate %q: %s lets it wait: %v", what, port, err)
			}
		}
	}
	for what, config := range map[string]*tls.Config{
		"a data node's": x.replicationBadge(pki.Data, x.b.ServerID), "the witness's": x.replicationBadge(pki.Replication, "w-00000000"),
		"of a member that was replaced": x.replicationBadge(pki.Replication, "b-00000000"), "none": {InsecureSkipVerify: true},
	} {
		if err := x.postgres(database, config); err == nil {
			t.Errorf("PostgreSQL takes the replication's password with a certificate that is %s", what)
		}
	}
	for port, err := range map[string]error{
		"Raft": x.raft(raft, x.replicationBadge(pki.Replication, x.b.ServerID)), "peer": x.peer(peer, x.replicationBadge(pki.Replication, x.b.ServerID)),
	} {
		if err == nil {
			t.Errorf("%s takes the certificate of a walreceiver", port)
		}
	}
	r.eventually(t, "failover is armed", func(ctx context.Context) error {
		s, err := r.Status(ctx, primary)
		if err == nil && !s.GetArmed() {
			err = fmt.Errorf("not armed: %q", s.GetNotArmed())
		}
		return err
	})
}
