package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"kineshim/raftwitness"
)

// call runs the command and returns its exit code and all that it printed.
func call(args ...string) (int, string) {
	var out bytes.Buffer
	code := run(context.Background(), args, strings.NewReader(""), &out, &out)
	return code, out.String()
}

// writeConfig makes a node's file in a directory of its own.
func writeConfig(t *testing.T, node, extra string) (path, dataDir string) {
	t.Helper()
	dir := t.TempDir()
	dataDir = filepath.Join(dir, "data")
	path = filepath.Join(dir, node+".yaml")
	text := fmt.Sprintf(`
node: %s
data_dir: %s
postgres: {socket_dir: /tmp/kineshim-test}
members:
  a: {raft: 127.0.0.1:1, peer: 127.0.0.1:2, postgres: 127.0.0.1:3}
  b: {raft: 127.0.0.1:4, peer: 127.0.0.1:5, postgres: 127.0.0.1:6}
  w: {raft: 127.0.0.1:7}
%s`, node, dataDir, extra)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path, dataDir
}

func TestCalledWrongly(t *testing.T) {
	for _, args := range [][]string{{}, {"--config", "x", "more"}, {"init", "--valid-for", "1s"}, {"join", "kj1.secret"}, {"token", "more"}, {"--nonsense"}} {
		if code, out := call(args...); code != 2 || !strings.Contains(out, "kineshim init") {
			t.Errorf("%v: exit %d, %s", args, code, out)
		}
	}
}

func TestCheckNamesAllMistakes(t *testing.T) {
	path, _ := writeConfig(t, "a", "engine: none\nlog: {level: loud}\n")
	if code, out := call("--config", path, "--check"); code != 1 || !strings.Contains(out, "engine:") || !strings.Contains(out, "log.level:") {
		t.Errorf("exit %d, %s", code, out)
	}
	path, _ = writeConfig(t, "a", "")
	if code, out := call("--config", path, "--check"); code != 0 {
		t.Errorf("exit %d, %s", code, out)
	}
	for flag, value := range map[string]string{"client_listen": "0.0.0.0:1", "http_listen": "8008"} {
		if code, out := call("--config", path, "--check", "--"+strings.ReplaceAll(flag, "_", "-"), value); code != 1 || !strings.Contains(out, flag) {
			t.Errorf("--%s not checked: exit %d, %s", flag, code, out)
		}
	}
}

func TestCheckLooksAtTheFilesOfTLS(t *testing.T) {
	path, _ := writeConfig(t, "a", "")
	args := []string{"--config", path, "--check", "--client-listen", "127.0.0.1:11", "--cert-file", "no-cert", "--key-file", "no-key"}
	if code, out := call(args...); code != 1 || !strings.Contains(out, "/no-cert: no such file") || !strings.Contains(out, "/no-key: no such file") {
		t.Errorf("missing files: exit %d, %s", code, out)
	}
	if code, out := call(append(args, "--client-cert-auth")...); code != 1 || !strings.Contains(out, "client_tls.trusted_ca_file: client_cert_auth needs it") {
		t.Errorf("no authorities: exit %d, %s", code, out)
	}
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "cert"), filepath.Join(dir, "key")
	writePair(t, cert, key)
	args = []string{"--config", path, "--check", "--client-listen", "http://127.0.0.1:11,0.0.0.0:12", "--cert-file", cert, "--key-file", key, "--trusted-ca-file", cert}
	if code, out := call(args...); code != 0 || strings.Contains(out, "warning") {
		t.Errorf("exit %d, %s", code, out)
	}
	if err := os.Chmod(key, 0o644); err != nil {
		t.Fatal(err)
	}
	if code, out := call(args...); code != 0 || !strings.Contains(out, "warning: client_tls: "+key+" can be read by everybody") {
		t.Errorf("exit %d, %s", code, out)
	}
}

// k3s makes these files later, so that they may be missing; but if they stay so, no API server ever counts as ready.
func TestCheckWarnsOfAPIServerFilesThatCannotBeRead(t *testing.T) {
	path, _ := writeConfig(t, "a", "apiserver: {listen: \":7443\", ca_file: /none/ca, cert_file: /none/crt, key_file: /none/key}\n")
	code, out := call("--config", path, "--check")
	for _, key := range []string{"ca_file", "cert_file", "key_file"} {
		if code != 0 || !strings.Contains(out, "warning: apiserver."+key+": open /none/") {
			t.Errorf("exit %d, %s", code, out)
		}
	}
}

// writePair makes a certificate that signs itself.
func writePair(t *testing.T, cert, key string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(30 * 24 * time.Hour), DNSNames: []string{"localhost"}}
	der, err := x509.CreateCertificate(rand.Reader, c, c, &k.PublicKey, k)
	if err != nil {
		t.Fatal(err)
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	for path, block := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: pkcs8}} {
		if err := os.WriteFile(path, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestEnrolment(t *testing.T) {
	a, aDir := writeConfig(t, "a", "max_wait: 3s\n")
	b, bDir := writeConfig(t, "b", "")
	enrolments := t.TempDir()
	if code, out := call("--config", a); code != 1 || !strings.Contains(out, "kineshim init") {
		t.Errorf("not enrolled: exit %d, %s", code, out)
	}
	if code, out := call("init", "--config", a, "--enrolments", enrolments); code != 0 {
		t.Fatalf("init: exit %d, %s", code, out)
	}
	if code, out := call("init", "--config", a, "--enrolments", enrolments); code != 1 || !strings.Contains(out, "already") {
		t.Errorf("second init: exit %d, %s", code, out)
	}
	if code, out := call("join", "--config", b, filepath.Join(enrolments, "w.json")); code != 1 || !strings.Contains(out, `for "w"`) {
		t.Errorf("another's enrolment: exit %d, %s", code, out)
	}
	c := newMachine(t, "c") // nothing is configured there
	for range 2 {           // the first one might have been killed before it wrote the configuration
		if err := os.Remove(c.config); err != nil && !errors.Is(err, fs.ErrNotExist) {
			t.Fatal(err)
		}
		if code, out := call("join", "--config", c.config, "--data-dir", c.dataDir, filepath.Join(enrolments, "b.json")); code != 0 {
			t.Fatalf("join without a configuration: exit %d, %s", code, out)
		}
	}
	if cfg := c.load(t); cfg.Name != "b" || cfg.DataDir != c.dataDir || cfg.MaxWait != 3*time.Second {
		t.Errorf("the configuration that was written: %+v", cfg)
	} else if enrolled, err := complete(&cfg); err != nil || !enrolled || cfg.Members["a"].Postgres != "127.0.0.1:3" {
		t.Errorf("its members: %+v, %v", cfg.Members, err)
	}
	for range 2 { // a join that is run again changes nothing
		if code, out := call("join", "--config", b, filepath.Join(enrolments, "b.json")); code != 0 {
			t.Fatalf("join: exit %d, %s", code, out)
		}
	}
	checkEnrolled(t, aDir, bDir, filepath.Join(enrolments, "w.json"))
}

// checkEnrolled compares the three identities.
func checkEnrolled(t *testing.T, aDir, bDir, witness string) {
	t.Helper()
	ida, err := raftwitness.LoadIdentity(aDir)
	if err != nil {
		t.Fatal(err)
	}
	idb, err := raftwitness.LoadIdentity(bDir)
	if err != nil {
		t.Fatal(err)
	}
	e, err := raftwitness.ReadEnrolment(witness)
	if err != nil {
		t.Fatal(err)
	}
	if ida.ClusterID != idb.ClusterID || ida.ClusterID != e.Identity.ClusterID || !ida.IsFounder() || idb.IsFounder() || ida.ServerID == idb.ServerID {
		t.Errorf("identities: %+v, %+v, %+v", ida, idb, e.Identity)
	}
	if len(e.Secrets) != 0 {
		t.Error("the witness was given the secrets")
	}
	sa, errA := loadSecrets(aDir)
	sb, errB := loadSecrets(bDir)
	if errA != nil || errB != nil || sa != sb || sa.Superuser == "" {
		t.Errorf("secrets differ: %v, %v", errA, errB)
	}
	for _, path := range []string{filepath.Join(aDir, "secrets.json"), filepath.Join(bDir, "secrets.json"), witness} {
		if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", path, fi.Mode(), err)
		}
	}
}

func TestConfigurationThatDoesNotFitTheIdentity(t *testing.T) {
	a, _ := writeConfig(t, "a", "")
	if code, out := call("init", "--config", a, "--enrolments", t.TempDir()); code != 0 {
		t.Fatalf("init: exit %d, %s", code, out)
	}
	text, err := os.ReadFile(a)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(a, append(text, "timing: {heartbeat_timeout: 300ms}\n"...), 0o600); err != nil {
		t.Fatal(err)
	}
	if code, out := call("--config", a); code != 1 || !strings.Contains(out, "founded with 500ms") {
		t.Errorf("exit %d, %s", code, out)
	}
}
