package doctor

import (
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"kineshim/pki"
	"kineshim/raftwitness"
)

// enrol gives a directory the identity and a certificate that is good for lifetime from now.
func enrol(t *testing.T, dir string, a *pki.Authority, id raftwitness.Identity, lifetime time.Duration) enrolment {
	t.Helper()
	e, err := id.Enrolment(a, lifetime)
	if err != nil {
		t.Fatal(err)
	}
	if err := e.Save(dir); err != nil {
		t.Fatal(err)
	}
	return loadEnrolment(dir)
}

func newAuthority(t *testing.T, cluster string) *pki.Authority {
	t.Helper()
	a, err := pki.NewAuthority(cluster, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// owned are the files of an enrolled data node, as they should be.
func owned(dir string) fakeFiles {
	f := fakeFiles{}
	for _, name := range mine {
		mode := fs.FileMode(0o600)
		if name == "tls" || name == "raft" {
			mode = fs.ModeDir | 0o700
		}
		f[filepath.Join(dir, name)] = Stat{995, 995, mode}
	}
	return f
}

func TestTheEnrolmentSaysWhoThisIs(t *testing.T) {
	const year = 365 * 24 * time.Hour
	for name, tc := range map[string]struct {
		more string
		// spoil changes the node, which has just been enrolled.
		spoil func(t *testing.T, n *node, a *pki.Authority, files fakeFiles)
		life  time.Duration
		want  []string
	}{
		"enrolled": {life: year, want: []string{"ok a data node of cluster ", "ok is good until"}},
		"enrolled, and not started yet": {life: year, spoil: func(_ *testing.T, n *node, _ *pki.Authority, files fakeFiles) {
			delete(files, filepath.Join(n.cfg.DataDir, "raft"))
		}, want: []string{"ok a data node of cluster ", "ok is good until"}},
		"not yet": {life: year, spoil: func(t *testing.T, n *node, _ *pki.Authority, _ fakeFiles) {
			n.enrolment = loadEnrolment(t.TempDir())
		}, want: []string{"FAIL this node is in no cluster yet // echo TOKEN | kineshim join"}},
		"a broken identity": {life: year, spoil: func(t *testing.T, n *node, _ *pki.Authority, _ fakeFiles) {
			n.enrolment = loadEnrolment(filepath.Dir(writeFile(t, filepath.Join(t.TempDir(), "identity.json"), "{")))
		}, want: []string{"FAIL read identity // shimctl node replace a"}},
		"another's name": {life: year, spoil: func(_ *testing.T, n *node, _ *pki.Authority, _ fakeFiles) { n.cfg.Name = "x" },
			want: []string{`FAIL is enrolled as "a", the configuration says node: x // kineshim does not start`, "ok is good until"}},
		"another timeout": {life: year, spoil: func(_ *testing.T, n *node, _ *pki.Authority, _ fakeFiles) {
			n.cfg.Timing.HeartbeatTimeout = time.Second
		},
			want: []string{"FAIL heartbeat_timeout is 1s, but the cluster was founded with 500ms // make the configuration fit", "ok is good until"}},
		"an unknown member": {life: year, spoil: func(_ *testing.T, n *node, _ *pki.Authority, _ fakeFiles) { n.others = n.others[:1] },
			want: []string{`FAIL the cluster has a member "w" // make the configuration fit`, "ok is good until"}},
		"an ended certificate": {life: time.Millisecond, want: []string{"ok a data node", "FAIL ended on // systemctl restart kineshim"}},
		"a late certificate": {life: year, spoil: func(_ *testing.T, n *node, _ *pki.Authority, _ fakeFiles) { n.now = n.now.Add(year - 20*24*time.Hour) },
			want: []string{"ok a data node", "warn ends on // systemctl restart kineshim"}},
		"another's certificate": {life: year, spoil: func(t *testing.T, n *node, a *pki.Authority, _ fakeFiles) {
			other := *n.enrolment.id
			other.ServerID = raftwitness.NewServerID("a")
			_, n.enrolment.credentialsErr = other.LoadCredentials(n.cfg.DataDir)
		}, want: []string{"ok a data node", "warn not this member's certificate // systemctl restart kineshim"}},
		"no certificates": {life: year, spoil: func(t *testing.T, n *node, _ *pki.Authority, _ fakeFiles) {
			if err := os.Remove(filepath.Join(n.cfg.DataDir, "tls", "member.pem")); err != nil {
				t.Fatal(err)
			}
			n.enrolment = loadEnrolment(n.cfg.DataDir)
		}, want: []string{"ok a data node", "FAIL the certificates: // shimctl node replace a"}},
		"no key of the authority": {life: year, spoil: func(t *testing.T, n *node, _ *pki.Authority, _ fakeFiles) {
			if err := os.Remove(filepath.Join(n.cfg.DataDir, "tls", "ca.key")); err != nil {
				t.Fatal(err)
			}
			n.enrolment = loadEnrolment(n.cfg.DataDir)
		}, want: []string{"ok a data node", "ok is good until", "FAIL the key with which this node renews certificates // shimctl node replace a"}},
		"no secrets": {life: year, spoil: func(_ *testing.T, n *node, _ *pki.Authority, files fakeFiles) {
			delete(files, filepath.Join(n.cfg.DataDir, "secrets.json"))
		}, want: []string{"ok a data node", "ok is good until", "FAIL there is no // shimctl node replace a"}},
		"root's files": {life: year, spoil: func(_ *testing.T, n *node, _ *pki.Authority, files fakeFiles) {
			files[filepath.Join(n.cfg.DataDir, "tls")] = Stat{0, 0, fs.ModeDir | 0o700}
		}, want: []string{"ok a data node", "ok is good until", "FAIL belongs to the user 0 // chown -R kineshim: "}},
		"open secrets": {life: year, spoil: func(_ *testing.T, n *node, _ *pki.Authority, files fakeFiles) {
			files[filepath.Join(n.cfg.DataDir, "secrets.json")] = Stat{995, 995, 0o644}
		}, want: []string{"ok a data node", "ok is good until", "warn secrets.json is secret // chmod 600 "}},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			id := founded(n.cfg)["a"]
			a := newAuthority(t, id.ClusterID)
			n.enrolment = enrol(t, n.cfg.DataDir, a, id, tc.life)
			n.self, n.others = membersOf(n.cfg, n.enrolment.id)
			n.now = time.Now()
			files := owned(n.cfg.DataDir)
			if tc.spoil != nil {
				tc.spoil(t, n, a, files)
			}
			expect(t, n.checkEnrolment(files), tc.want...)
		})
	}
}
