package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"kineshim/config"
	"kineshim/joining"
	"kineshim/pki"
	"kineshim/raftwitness"
	"kineshim/raftwitness/record"
	"kineshim/sdnotify"
)

// typed calls the command with what an operator types, and ends it with ctx.
func typed(ctx context.Context, input string, args ...string) (int, string) {
	var out bytes.Buffer
	code := run(ctx, args, strings.NewReader(input), &out, &out)
	return code, out.String()
}

// typedUntil ends the command when it has printed the words.
func typedUntil(t *testing.T, words, input string, args ...string) (int, string) {
	t.Helper()
	ctx, stop := context.WithTimeout(t.Context(), time.Minute)
	defer stop()
	out := &untilWriter{words: words, stop: stop}
	code := run(ctx, args, strings.NewReader(input), out, out)
	if !strings.Contains(out.String(), words) {
		t.Errorf("it did not say %q", words)
	}
	return code, out.String()
}

// untilWriter calls stop when the words have been written.
type untilWriter struct {
	bytes.Buffer
	words string
	stop  func()
}

func (w *untilWriter) Write(b []byte) (int, error) {
	n, err := w.Buffer.Write(b)
	if strings.Contains(w.String(), w.words) {
		w.stop()
	}
	return n, err
}

// machine is where a member of a test's cluster is: an address of loopback that is its own, and directories.
type machine struct{ name, address, config, dataDir string }

func newMachine(t *testing.T, name string) machine {
	t.Helper()
	dir := t.TempDir()
	address := fmt.Sprintf("127.%d.%d.%d", 1+rand.IntN(250), rand.IntN(250), 2+rand.IntN(250))
	return machine{name, address, filepath.Join(dir, "etc", "kineshim.yaml"), filepath.Join(dir, "data")}
}

func (m machine) flags(verb string, more ...string) []string {
	own := []string{verb, "--config", m.config, "--data-dir", m.dataDir, "--name", m.name, "--advertise", m.address, "--client-listen", m.address + ":2379", "--http-listen", m.address + ":8008"}
	return append(own, more...)
}

var shownToken = regexp.MustCompile(`echo (kj1\S+) \| (kineshim|raftwitness) join`)

// tokens are those that a command has printed, by program.
func tokens(t *testing.T, printed string) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, m := range shownToken.FindAllStringSubmatch(printed, -1) {
		out[m[2]] = m[1]
	}
	return out
}

func (m machine) load(t *testing.T) config.Node {
	t.Helper()
	cfg, err := config.LoadNode(m.config)
	if err != nil {
		t.Fatal(err)
	}
	return cfg
}

// joinWitness joins with the witness's token.
func joinWitness(t *testing.T, text string) (raftwitness.Enrolment, error) {
	token, err := joining.ParseToken(text)
	if err != nil {
		t.Error(err)
	}
	e, _, err := joining.Visit{
		Token: token, Dir: t.TempDir(), Request: joining.Request{Name: "w"}, Say: t.Logf,
		Settle: func(q *joining.Request, _ net.IP) error { q.Raft = "127.0.0.1:1"; return nil },
	}.Join(t.Context())
	return e, err
}

// serveJoins answers as the founder's node does once it runs.
func serveJoins(t *testing.T, a machine, id raftwitness.Identity) {
	t.Helper()
	log := slog.New(slog.DiscardHandler)
	credentials, err := id.LoadCredentials(a.dataDir)
	if err != nil {
		t.Fatal(err)
	}
	ln, err := raftwitness.Listen(t.Context(), id.Peers[0].Raft)
	if err != nil {
		t.Fatal(err)
	}
	l := raftwitness.NewListener(ln, log)
	t.Cleanup(func() { l.Close() })
	f, err := joining.Book{Dir: a.dataDir}.Load()
	if err != nil {
		t.Fatal(err)
	}
	current := func(name string) (string, bool) {
		p, ok := id.PeerByName(name)
		return p.ServerID, ok
	}
	h, err := newHost(t.Context(), a.config, a.load(t), current, log)
	if err != nil {
		t.Fatal(err)
	}
	l.Receive(f.Cluster, joining.Protocol, credentials.Reception(joining.Protocol), h.Serve)
}

func TestClusterIsFoundedByTokens(t *testing.T) {
	a, b := newMachine(t, "a"), newMachine(t, "b")
	code, out := typed(t.Context(), "", a.flags("init", "--vip", "10.99.0.50/24", "--client-listen", "127.0.0.1:1")...)
	if code != 0 {
		t.Fatalf("init: exit %d, %s", code, out)
	}
	shown := tokens(t, out)
	if len(shown) != 2 {
		t.Fatalf("init printed %s", out)
	}
	if code, out := typed(t.Context(), "", a.flags("init")...); code != 1 || !strings.Contains(out, "is being founded here already") || !strings.Contains(out, "the witness is waited for") {
		t.Errorf("second init: exit %d, %s", code, out)
	}
	gathered := make(chan error, 1)
	log := slog.New(slog.DiscardHandler)
	go func() { gathered <- gather(t.Context(), a.config, a.load(t), sdnotify.New(log), log) }()
	joined := make(chan string, 1)
	go func() {
		code, out := typed(t.Context(), shown["kineshim"]+"\n", b.flags("join")...)
		joined <- fmt.Sprint(code, out)
	}()
	witness := make(chan error, 1)
	go func() {
		_, err := joinWitness(t, shown["raftwitness"])
		witness <- err
	}()
	if err := <-gathered; err != nil {
		t.Fatalf("gather: %v", err)
	}
	ida, err := raftwitness.LoadIdentity(a.dataDir)
	if err != nil || !ida.IsFounder() {
		t.Fatalf("the founder: %+v, %v", ida, err)
	}
	serveJoins(t, a, ida)
	if err := <-witness; err != nil {
		t.Errorf("the witness: %v", err)
	}
	if out := <-joined; !strings.HasPrefix(out, "0") || !strings.Contains(out, "joined cluster "+ida.ClusterID) {
		t.Fatalf("join: %s", out)
	}
	checkJoined(t, a, b, ida)
	checkInterruptedJoin(t, b, shown["kineshim"])
}

// checkJoined looks at what a join has written.
func checkJoined(t *testing.T, a, b machine, ida raftwitness.Identity) {
	t.Helper()
	cfg := b.load(t)
	if len(cfg.VIPs) != 1 || cfg.VIPs[0].Address != "10.99.0.50/24" || cfg.APIServer.Listen != ":7443" || cfg.Name != "b" {
		t.Errorf("b's configuration lacks what the founder has: %+v", cfg)
	}
	if got := cfg.ClientListen[0]; got != b.address+":2379" {
		t.Errorf("b serves clients at %s, as only the founder was told to", got)
	}
	if enrolled, err := complete(&cfg); err != nil || !enrolled || cfg.Other() != "a" || cfg.WitnessName() != "w" || cfg.Members["a"].Postgres != a.address+":5433" {
		t.Errorf("members: %+v, %v", cfg.Members, err)
	}
	if want := []string{a.address + ":6443", b.address + ":6443"}; fmt.Sprint(cfg.APIServer.Servers) != fmt.Sprint(want) {
		t.Errorf("the Kubernetes API is balanced to %v, want %v", cfg.APIServer.Servers, want)
	}
	idb, err := raftwitness.LoadIdentity(b.dataDir)
	if err != nil || idb.ClusterID != ida.ClusterID || idb.IsFounder() {
		t.Errorf("b: %+v, %v", idb, err)
	}
	if _, err := pki.LoadAuthority(raftwitness.CertificatesDir(b.dataDir)); err != nil {
		t.Errorf("b's authority: %v", err)
	}
	for _, path := range []string{filepath.Join(b.dataDir, secretsFile), filepath.Join(a.dataDir, "founding.json")} {
		if fi, err := os.Stat(path); err != nil || fi.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", path, fi, err)
		}
	}
}

// checkInterruptedJoin has the machine join again: with everything there, and with nothing but its key, as after an interruption.
func checkInterruptedJoin(t *testing.T, b machine, token string) {
	t.Helper()
	if code, out := typed(t.Context(), token, b.flags("join")...); code != 0 || !strings.Contains(out, "already") {
		t.Errorf("again: exit %d, %s", code, out)
	}
	if err := os.Remove(b.config); err != nil { // as if the system had been installed anew
		t.Fatal(err)
	}
	if code, out := typed(t.Context(), token, b.flags("join")...); code != 0 || !strings.Contains(out, "is written anew") || b.load(t).Name != "b" {
		t.Errorf("without its configuration: exit %d, %s", code, out)
	}
	if err := os.Remove(filepath.Join(b.dataDir, "identity.json")); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	// Its key was forgotten when it had joined: without it, it is another machine.
	if code, out := typed(ctx, token, b.flags("join")...); code != 1 || !strings.Contains(out, "used already, by b") {
		t.Errorf("without its key: exit %d, %s", code, out)
	}
}

func TestJoinThatIsInterruptedGoesOn(t *testing.T) {
	a, b := newMachine(t, "a"), newMachine(t, "b")
	code, out := typed(t.Context(), "", a.flags("init")...)
	if code != 0 {
		t.Fatalf("init: exit %d, %s", code, out)
	}
	shown := tokens(t, out)
	ctx, cancel := context.WithCancel(t.Context())
	gathered := make(chan error, 1)
	log := slog.New(slog.DiscardHandler)
	go func() { gathered <- gather(ctx, a.config, a.load(t), sdnotify.New(log), log) }()
	for range 2 { // a guest that goes away and comes again, also while the founder restarts
		if code, out := typedUntil(t, "until the witness has joined too", shown["kineshim"], b.flags("join")...); code != 1 || !strings.Contains(out, "Run the same command again") {
			t.Errorf("exit %d, %s", code, out)
		}
	}
	if _, err := os.Stat(b.config); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a configuration was written before the machine had joined: %v", err)
	}
	// New tokens are for who has not joined.
	code, out = typed(t.Context(), "", "token", "--config", a.config)
	if again := tokens(t, out); code != 0 || again["raftwitness"] == "" || again["kineshim"] != "" {
		t.Errorf("token: exit %d, %s", code, out)
	}
	cancel()
	if err := <-gathered; !errors.Is(err, context.Canceled) {
		t.Errorf("gather: %v", err)
	}
	if f, err := (joining.Book{Dir: a.dataDir}).Load(); err != nil || len(f.Missing()) != 1 {
		t.Errorf("after the founder's end: %+v, %v", f, err)
	}
}

func TestDryRunsChangeNothing(t *testing.T) {
	a := newMachine(t, "a")
	code, out := typed(t.Context(), "", a.flags("init", "--dry-run")...)
	if code != 0 || !strings.Contains(out, "Nothing is changed") || !strings.Contains(out, "node: a") || tokens(t, out)["kineshim"] != "" {
		t.Errorf("exit %d, %s", code, out)
	}
	for _, path := range []string{a.config, a.dataDir} {
		if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: %v", path, err)
		}
	}
	for _, args := range [][]string{{"init", "--enrolments", "x", "--dry-run"}, {"join", "--dry-run", "b.json"}, {"token", "--dry-run"}, {"operator", "anna", "--dry-run"}, {"clean-up", "--config", "x", "--dry-run"}} {
		if code, out := call(args...); code != 2 || !strings.Contains(out, "--dry-run is for init, and for join with a token") {
			t.Errorf("%q: exit %d, %s", args, code, out)
		}
	}
}

func TestInitThatCannotBe(t *testing.T) {
	for name, c := range map[string]struct {
		more []string
		file string
		want string
	}{
		"an address of another machine": {more: []string{"--advertise", "192.0.2.77"}, want: "no address of this machine"},
		"an address with a port":        {more: []string{"--advertise", "127.0.0.1:77"}, want: "without a port"},
		"the virtual address":           {more: []string{"--advertise", "10.99.0.50", "--vip", "10.99.0.50/24"}, want: "the machine's own"},
		"no address":                    {more: []string{"--vip", "fifty"}, want: "not an IP address"},
		"another name in the file":      {file: "node: z\ndata_dir: /x\n", want: "says node: z, not a"},
		"a mistake in the file":         {file: "node: a\ndata_dir: x\n", want: "not an absolute path"},
	} {
		t.Run(name, func(t *testing.T) {
			a := newMachine(t, "a")
			if c.file != "" {
				if err := errors.Join(os.MkdirAll(filepath.Dir(a.config), 0o755), os.WriteFile(a.config, []byte(c.file), 0o600)); err != nil {
					t.Fatal(err)
				}
			}
			code, out := typed(t.Context(), "", a.flags("init", c.more...)...)
			if code != 1 || !strings.Contains(out, c.want) {
				t.Errorf("exit %d, %s; want %q", code, out, c.want)
			}
			if _, err := os.Stat(filepath.Join(a.dataDir, "founding.json")); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("a cluster is founded: %v", err)
			}
		})
	}
}

func TestTokenOnTheCommandLineIsRefused(t *testing.T) {
	code, out := typed(t.Context(), "", "join", "kj1.secret")
	if first, _, _ := strings.Cut(out, "\n"); code != 2 || !strings.Contains(first, "standard input") || strings.Contains(first, "secret") {
		t.Errorf("exit %d, %s", code, out)
	}
}

func TestInitThatWasInterruptedCanBeRunAgainForTheService(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root makes files for others")
	}
	const service = 1 // daemon, on each Debian
	a := newMachine(t, "a")
	inTheWay := filepath.Join(a.dataDir, secretsFile, "x")
	if err := errors.Join(os.MkdirAll(inTheWay, 0o700), os.Chown(a.dataDir, service, service)); err != nil {
		t.Fatal(err)
	}
	if code, out := typed(t.Context(), "", a.flags("init")...); code != 1 {
		t.Fatalf("init: exit %d, %s", code, out)
	}
	if err := os.RemoveAll(filepath.Dir(inTheWay)); err != nil {
		t.Fatal(err)
	}
	if code, out := typed(t.Context(), "", a.flags("init")...); code != 0 || len(tokens(t, out)) != 2 {
		t.Fatalf("again: exit %d, %s", code, out)
	}
	fi, err := os.Stat(a.config)
	if err != nil {
		t.Fatal(err)
	}
	if st := fi.Sys().(*syscall.Stat_t); st.Uid != 0 || st.Gid != service || fi.Mode().Perm() != 0o640 {
		t.Errorf("the configuration belongs to %d:%d, mode %v", st.Uid, st.Gid, fi.Mode())
	}
	for _, name := range []string{secretsFile, "founding.json", "tls/ca.key"} {
		if fi, err := os.Stat(filepath.Join(a.dataDir, name)); err != nil || fi.Sys().(*syscall.Stat_t).Uid != service {
			t.Errorf("%s: %+v, %v", name, fi, err)
		}
	}
}

func TestIdentityThatCannotBeReadIsNotReplaced(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "identity.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	e := raftwitness.Enrolment{Identity: raftwitness.Identity{Name: "b", Role: record.Data}, Secrets: []byte("{}")}
	if err := join(config.Node{Name: "b", DataDir: dir}, "b.json", e, io.Discard); err == nil || !strings.Contains(err.Error(), "move it aside") {
		t.Errorf("%v", err)
	}
	if all, err := os.ReadDir(dir); err != nil || len(all) != 1 {
		t.Errorf("something was written: %v, %v", all, err)
	}
}

func TestNewTokensLeaveTheListToTheService(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root makes files for others")
	}
	a := newMachine(t, "a")
	if code, out := typed(t.Context(), "", a.flags("init")...); code != 0 {
		t.Fatalf("init: exit %d, %s", code, out)
	}
	const service = 1 // daemon, on each Debian
	for _, path := range []string{a.dataDir, filepath.Join(a.dataDir, "founding.json")} {
		if err := os.Chown(path, service, service); err != nil {
			t.Fatal(err)
		}
	}
	if code, out := typed(t.Context(), "", "token", "--config", a.config); code != 0 || len(tokens(t, out)) != 2 {
		t.Fatalf("token: exit %d, %s", code, out)
	}
	for _, name := range []string{"founding.json", "founding.lock"} {
		fi, err := os.Stat(filepath.Join(a.dataDir, name))
		if err != nil || fi.Sys().(*syscall.Stat_t).Uid != service {
			t.Errorf("%s: %+v, %v", name, fi, err)
		}
	}
}
