package doctor

import (
	"io/fs"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"kineshim/pki"
)

func TestAllMistakesOfTheConfigurationAreTold(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "k.yaml")
	for name, tc := range map[string]struct {
		content string
		want    string
	}{
		"two mistakes":       {strings.ReplaceAll(testConfig("relative"), "node: a", "node: A"), "FAIL 3 mistakes:\n  node: // kineshim --config " + path + " --check"},
		"an unknown key":     {testConfig(dir) + "colour: red\n", "FAIL field colour not found // correct it"},
		"PostgreSQL's":       {testConfig(dir) + "postgres: {settings: {port: '1'}}\n", "FAIL has a mistake:\n  postgres.settings: // correct it"},
		"no YAML":            {"\t", "FAIL yaml: // correct it"},
		"nothing is missing": {testConfig(dir), ""},
	} {
		t.Run(name, func(t *testing.T) {
			_, got := loadConfig(writeFile(t, path, tc.content))
			if tc.want == "" {
				expect(t, got)
				return
			}
			expect(t, got, tc.want)
		})
	}
	_, got := loadConfig(filepath.Join(dir, "none.yaml"))
	expect(t, got, "FAIL there is no // shimctl doctor --config FILE")
}

func TestTheServiceCanReadItsConfigurationAndOthersCannot(t *testing.T) {
	const path = "/etc/kineshim/kineshim.yaml"
	const etc = fs.ModeDir | 0o750
	for name, tc := range map[string]struct {
		dir, file Stat
		user      User
		want      string
	}{
		"as the package has it": {Stat{0, 995, etc}, Stat{0, 995, 0o640}, kineshim, "ok readable for the service's user kineshim and not for everybody (mode 0640)"},
		"its own":               {Stat{0, 995, etc}, Stat{995, 995, 0o400}, kineshim, "ok readable"},
		"root's alone":          {Stat{0, 995, etc}, Stat{0, 0, 0o600}, kineshim, "FAIL kineshim cannot read " + path + " (mode 0600) // chgrp kineshim " + path + " && chmod 640 " + path},
		"in a closed directory": {Stat{0, 0, etc}, Stat{0, 995, 0o640}, kineshim, "FAIL kineshim cannot enter /etc/kineshim (mode 0750) // chgrp kineshim /etc/kineshim && chmod 750 /etc/kineshim"},
		"everybody's to read":   {Stat{0, 995, etc}, Stat{0, 995, 0o644}, kineshim, "warn can be read by everybody // chgrp kineshim " + path + " && chmod 640 " + path},
		"everybody's to change": {Stat{0, 995, etc}, Stat{0, 995, 0o666}, kineshim, "FAIL everybody on this machine can change // chmod 640"},
		"the group's to change": {Stat{0, 995, etc}, Stat{0, 995, 0o660}, kineshim, "warn the group of " + path + " can change it // chmod g-w"},
		"another user's":        {Stat{0, 995, etc}, Stat{1000, 995, 0o640}, kineshim, "warn belongs to the user 1000 // chown root"},
		"for a service of root": {Stat{0, 0, etc}, Stat{0, 0, 0o600}, rootUser, "ok readable for the service's user root"},
		"another's, for root":   {Stat{995, 995, fs.ModeDir | 0o700}, Stat{995, 995, 0o400}, rootUser, "warn belongs to the user 995 // chown root"},
		"root's, for everybody": {Stat{0, 0, etc}, Stat{0, 0, 0o644}, rootUser, "warn can be read by everybody // chmod 600 " + path},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t)
			n.user.User = tc.user
			f := notes{}
			n.checkConfigFile(&f, path, fakeFiles{"/etc/kineshim": tc.dir, path: tc.file})
			expect(t, f.all, tc.want)
		})
	}
}

func TestTheDataDirectoryIsTheServices(t *testing.T) {
	n := newNode(t)
	dir := n.cfg.DataDir
	for name, tc := range map[string]struct {
		files fakeFiles
		want  string
	}{
		"as it should be": {fakeFiles{dir: {995, 995, fs.ModeDir | 0o700}}, "ok is the service's (mode 0700)"},
		"missing":         {fakeFiles{}, "FAIL there is no data directory // install -d -m 0700 -o kineshim -g kineshim " + dir},
		"root's":          {fakeFiles{dir: {0, 0, fs.ModeDir | 0o700}}, "FAIL belongs to the user 0, and the service runs as kineshim (995) // chown -R kineshim: " + dir},
		"a file":          {fakeFiles{dir: {995, 995, 0o700}}, "FAIL is no directory // data_dir"},
		"open to others":  {fakeFiles{dir: {995, 995, fs.ModeDir | 0o777}}, "FAIL others than its owner can write // chmod go-w " + dir},
	} {
		t.Run(name, func(t *testing.T) {
			f := notes{}
			n.checkDataDir(&f, tc.files)
			expect(t, f.all, tc.want)
		})
	}
}

func TestTheServiceCanUseWhatItsConfigurationNames(t *testing.T) {
	n := newNode(t, `vips: [{address: 192.168.1.50, hook: [/usr/local/bin/move]}]`, `apiserver: {listen: ":7443", ca_file: /ca.crt}`)
	f := notes{}
	n.checkNamedFiles(&f, fakeFiles{"/usr/local/bin/move": {0, 0, 0o755}, "/ca.crt": {0, 0, 0o644}})
	expect(t, f.all)
	n.checkNamedFiles(&f, fakeFiles{"/usr/local/bin/move": {0, 0, 0o644}})
	expect(t, f.all, "FAIL apiserver.ca_file: // correct its path", "FAIL vips.0.hook: kineshim cannot run /usr/local/bin/move // chmod 750")
}

func TestRemediesTakeNothingFromOthers(t *testing.T) {
	const key = "/etc/ssl/private/shim.key"
	closed := fakeFiles{"/etc/ssl/private": {0, 110, fs.ModeDir | 0o710}, key: {0, 110, 0o640}}
	for name, tc := range map[string]struct {
		files fakeFiles
		path  string
		user  User
		want  string
	}{
		"another group's directory":      {closed, key, kineshim, "usermod -aG $(stat -c %G /etc/ssl/private) kineshim"},
		"in the group":                   {closed, key, User{Name: "kineshim", UID: 995, GIDs: []int{995, 110}}, ""},
		"that reads all":                 {closed, key, User{Name: "kineshim", UID: 995, ReadsAll: true}, ""},
		"another group's file":           {fakeFiles{"/etc/shim.key": {0, 110, 0o640}}, "/etc/shim.key", kineshim, "usermod -aG $(stat -c %G /etc/shim.key) kineshim"},
		"a file that no group may read":  {fakeFiles{"/etc/shim.key": {0, 110, 0o600}}, "/etc/shim.key", kineshim, "chgrp kineshim /etc/shim.key"},
		"root's home":                    {fakeFiles{"/root": {0, 0, fs.ModeDir | 0o700}, "/root/key": {0, 0, 0o600}}, "/root/key", kineshim, "put a copy where kineshim may read it"},
		"a directory of another's alone": {fakeFiles{"/home/x": {1000, 1000, fs.ModeDir | 0o700}, "/home/x/key": {0, 0, 0o600}}, "/home/x/key", kineshim, "put a copy where kineshim may read it"},
	} {
		if got := remedyOf(reach(tc.files, tc.user, tc.path, 4)); (got == "") != (tc.want == "") || !strings.Contains(got, tc.want) {
			t.Errorf("%s: %q, want %q", name, got, tc.want)
		}
	}
	if err := reach(closed, User{Name: "kineshim", UID: 995, ReadsAll: true}, key, 2); err == nil {
		t.Error("who may read all may write")
	}
}

func TestClientsAreShownAGoodCertificate(t *testing.T) {
	a, err := pki.NewAuthority("c-1", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "crt"), filepath.Join(dir, "key")
	n := newNode(t, "client_listen: https://127.0.0.1:2379\nclient_tls: {cert_file: "+cert+", key_file: "+key+"}")
	n.user.known = false
	for name, tc := range map[string]struct {
		lifetime time.Duration
		broken   bool
		want     []string
	}{
		"good":          {1000 * time.Hour, false, []string{"ok good until"}},
		"about to end":  {time.Hour, false, []string{"warn client_tls: // replace the file", "ok good until"}},
		"another's key": {time.Hour, true, []string{"FAIL client_tls: // the key that belongs to it"}},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := a.ServerPair([]string{"a"}, tc.lifetime, time.Now())
			if err != nil {
				t.Fatal(err)
			}
			other, err := a.ServerPair([]string{"a"}, tc.lifetime, time.Now())
			if err != nil {
				t.Fatal(err)
			}
			if tc.broken {
				p.Key = other.Key
			}
			writeFile(t, cert, string(p.Cert))
			writeFile(t, key, string(p.Key))
			f := notes{}
			n.checkNamedFiles(&f, fakeFiles{})
			expect(t, f.all, tc.want...)
		})
	}
}
