package integration

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"

	"kineshim/integration/cluster"
)

// authority signs the certificates of a test.
type authority struct {
	cert   *x509.Certificate
	key    *ecdsa.PrivateKey
	issued int64
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	a := &authority{}
	pair := a.issue(t, "the test's authority")
	a.cert, a.key = pair.Leaf, pair.PrivateKey.(*ecdsa.PrivateKey)
	return a
}

// issue makes a certificate for 127.0.0.1 and the name; the first one is the authority's own.
func (a *authority) issue(t *testing.T, name string) tls.Certificate {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	a.issued++
	c := &x509.Certificate{
		SerialNumber: big.NewInt(a.issued), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(30 * 24 * time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, BasicConstraintsValid: true, IsCA: a.cert == nil,
	}
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = c, key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, signer)
	must(t, err)
	leaf, err := x509.ParseCertificate(der)
	must(t, err)
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

// writePair puts a certificate and its key in place of what is there.
func writePair(t *testing.T, certFile, keyFile string, c tls.Certificate) {
	t.Helper()
	key, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	must(t, err)
	must(t, os.WriteFile(certFile, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate[0]}), 0o644))
	must(t, os.WriteFile(keyFile, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: key}), 0o600))
}

// trusting is a client's TLS, with a certificate of its own if it is given one.
func (a *authority) trusting(own ...tls.Certificate) *tls.Config {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return &tls.Config{RootCAs: pool, Certificates: own}
}

// etcdClient is a client of the URLs; a nil conf is for plain text.
func etcdClient(t *testing.T, conf *tls.Config, urls ...string) *clientv3.Client {
	t.Helper()
	c, err := clientv3.New(clientv3.Config{Endpoints: urls, TLS: conf, Logger: zap.NewNop()})
	must(t, err)
	t.Cleanup(func() { c.Close() })
	return c
}

// The etcd endpoint with TLS: clients show certificates, those of the nodes are replaced while they run, and a failover is what it is without.
// With users and permissions, those who may not cannot, on either node, before a failover and after it.
func TestTheEtcdEndpointWithTLS(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a cluster of real processes")
	}
	ca, dir := newAuthority(t), t.TempDir()
	file := func(name string) string { return filepath.Join(dir, name) }
	writePair(t, file("ca.pem"), file("ca.key"), tls.Certificate{Certificate: [][]byte{ca.cert.Raw}, PrivateKey: ca.key})
	r := newRig(t, func(o *cluster.Options) {
		o.Extra = map[string]string{}
		for _, node := range cluster.DataNodes {
			writePair(t, file(node+".pem"), file(node+".key"), ca.issue(t, node))
			o.Extra[node] = fmt.Sprintf("client_tls: {cert_file: %s, key_file: %s, client_cert_auth: true, trusted_ca_file: %s}\n",
				file(node+".pem"), file(node+".key"), file("ca.pem"))
		}
	})
	r.log.set(t)
	t.Cleanup(func() {
		r.log.set(nil)
		if t.Failed() {
			r.keepEvidence(t)
		}
		r.destroy()
	})
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	must(t, r.StartAll(ctx))
	must(t, r.WaitArmed(ctx))

	url := func(node string) string { return strings.Replace(r.ClientURL(node), "http://", "https://", 1) }
	known := ca.trusting(ca.issue(t, "root"))
	for _, node := range cluster.DataNodes {
		c := etcdClient(t, known, url(node))
		r.eventually(t, "put through "+node, func(ctx context.Context) error {
			_, err := c.Put(ctx, "/"+node, "value")
			return err
		})
		got, err := c.Get(ctx, "/"+node)
		if err != nil || len(got.Kvs) != 1 {
			t.Errorf("get through %s: %v, %v", node, got, err)
		}
	}
	strangers := newAuthority(t)
	stranger := strangers.issue(t, "k3s")
	for what, c := range map[string]*clientv3.Client{
		"no certificate":        etcdClient(t, ca.trusting(), url(cluster.A)),
		"another's certificate": etcdClient(t, ca.trusting(stranger), url(cluster.A)),
		"plain text":            etcdClient(t, nil, r.ClientURL(cluster.A)),
	} {
		once, done := context.WithTimeout(ctx, 2*time.Second)
		if got, err := c.Get(once, "/a", clientv3.WithSerializable()); err == nil {
			t.Errorf("%s: answered: %v", what, got)
		}
		done()
	}
	renew(t, r, cluster.B, known, func() { writePair(t, file("b.pem"), file("b.key"), ca.issue(t, "b")) })

	save := exec.CommandContext(ctx, lab.binaries.Shimctl, "--socket", r.SocketPath(cluster.B), "snapshot", "save", file("today.snap"))
	if out, err := save.CombinedOutput(); err != nil || !strings.Contains(string(out), "2 keys") && engine() != "kine" {
		t.Errorf("shimctl snapshot save: %v, %s", err, out)
	}

	var guarded *guarded
	if engine() != "kine" {
		guarded = guard(ctx, t, r, ca, url)
		for _, node := range cluster.DataNodes {
			guarded.check(ctx, t, node)
		}
		guarded.revoke(ctx, t)
	}

	both := etcdClient(t, known, url(cluster.A), url(cluster.B))
	must(t, r.KillNode(cluster.A))
	r.eventually(t, "put after the failover", func(ctx context.Context) error {
		_, err := both.Put(ctx, "/after", "value")
		return err
	})
	if guarded != nil {
		guarded.check(ctx, t, cluster.B)
		guarded.unlock(ctx, t, cluster.B)
	}
}

// renew replaces a running node's certificate, and looks that the node shows the new one.
func renew(t *testing.T, r *rig, node string, conf *tls.Config, replace func()) {
	t.Helper()
	shown := func() *big.Int {
		c, err := tls.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", r.ClientPort(node)), conf)
		must(t, err)
		defer c.Close()
		return c.ConnectionState().PeerCertificates[0].SerialNumber
	}
	before := shown()
	replace()
	after := shown()
	if after.Cmp(before) == 0 {
		t.Errorf("%s still shows certificate %v", node, before)
	}
	log, err := os.ReadFile(r.LogPath(node))
	if err != nil || !strings.Contains(string(log), "certificates are read anew") {
		t.Errorf("%s does not log the new certificate: %v", node, err)
	}
}
