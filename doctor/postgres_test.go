package doctor

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"

	"kineshim/failover/postgres"
)

type fakePostgres struct {
	found    postgres.Programs
	err      error
	clusters []DistributionCluster
}

func (p fakePostgres) Find(context.Context, string, string) (postgres.Programs, error) {
	return p.found, p.err
}
func (p fakePostgres) Distribution() []DistributionCluster { return p.clusters }

func TestThePostgreSQLMustBeOneThatFits(t *testing.T) {
	const user, unknown = "ok PostgreSQL runs as kineshim, kineshim's own user", "ok which PostgreSQL b has is not known from here: it must be 16 too"
	p16 := postgres.Programs{Dir: "/usr/lib/postgresql/16/bin", Major: 16}
	for name, tc := range map[string]struct {
		more  string
		pg    fakePostgres
		spoil func(*node)
		want  []string
	}{
		"new":                {pg: fakePostgres{found: p16}, want: []string{"ok PostgreSQL 16 in /usr/lib/postgresql/16/bin; there are no data yet", user, unknown}},
		"with data":          {pg: fakePostgres{found: postgres.Programs{Major: 16, DataMajor: 16}}, want: []string{"ok which is the data's version too", user, unknown}},
		"none":               {pg: fakePostgres{err: errors.New("bin_dir: no PostgreSQL found")}, want: []string{"FAIL no PostgreSQL found // install PostgreSQL 14 to 18", user}},
		"not to be read":     {pg: fakePostgres{err: fs.ErrPermission}, want: []string{"warn not looked at // sudo shimctl doctor", user}},
		"half of it":         {pg: fakePostgres{found: postgres.Programs{Major: 16, Missing: []string{"pg_rewind"}}}, want: []string{"FAIL lacks pg_rewind // postgres.bin_dir", user, unknown}},
		"too old":            {pg: fakePostgres{found: postgres.Programs{Major: 13}}, want: []string{"FAIL PostgreSQL 13 // 14 to 18", user, "ok it must be 13 too"}},
		"of another version": {pg: fakePostgres{found: postgres.Programs{Major: 16, DataMajor: 15}}, want: []string{"FAIL are of version 15 // apt-get install postgresql-15", user, unknown}},
		"b replicates": {pg: fakePostgres{found: p16}, spoil: func(n *node) { n.status = runningStatus() },
			want: []string{"ok PostgreSQL 16", user, "ok b has PostgreSQL 16 too"}},
		"another user, without root": {more: "postgres: {os_user: postgres}", pg: fakePostgres{found: p16},
			want: []string{"ok PostgreSQL 16", "FAIL only root can run PostgreSQL as another user // take postgres.os_user out", unknown}},
		"as root, the usual user": {pg: fakePostgres{found: p16}, spoil: func(n *node) { n.user.User = rootUser },
			want: []string{"ok PostgreSQL 16", "FAIL there is no user postgres // useradd --system postgres", unknown}},
		"as root, a user": {more: "postgres: {os_user: jo}", pg: fakePostgres{found: p16}, spoil: func(n *node) { n.user.User = rootUser },
			want: []string{"ok PostgreSQL 16", "ok PostgreSQL runs as jo", unknown}},
		"as root, a user who cannot enter": {more: "postgres: {os_user: kineshim}", pg: fakePostgres{found: p16}, spoil: func(n *node) { n.user.User, n.cfg.DataDir = rootUser, "/closed/data" },
			want: []string{"ok PostgreSQL 16", "FAIL kineshim cannot enter /closed (mode 0700) // chmod o+x", unknown}},
		"as root": {more: "postgres: {os_user: root}", pg: fakePostgres{found: p16}, spoil: func(n *node) { n.user.User = rootUser },
			want: []string{"ok PostgreSQL 16", "FAIL PostgreSQL refuses to run as root // postgres.os_user", unknown}},
		"a service that is not known": {pg: fakePostgres{found: p16}, spoil: func(n *node) { n.user.known = false },
			want: []string{"ok PostgreSQL 16", "warn who runs PostgreSQL is not known // unit", unknown}},
		"a cluster of the distribution's at the port": {pg: fakePostgres{found: p16, clusters: []DistributionCluster{
			{"16/main", "/etc/m", "5432", true}, {"16/second", "/etc/s", "5433", true}, {"15/old", "/etc/o", "5433", false}}},
			want: []string{"ok PostgreSQL 16", user, unknown,
				"FAIL the distribution's PostgreSQL 16/second has port 5433 too, and is started with the machine // pg_dropcluster --stop 16 second", "warn 15/old has port 5433 too // in /etc/o"}},
	} {
		t.Run(name, func(t *testing.T) {
			n := newNode(t, tc.more)
			if tc.spoil != nil {
				tc.spoil(n)
			}
			files := fakeFiles{n.cfg.DataDir: {0, 0, fs.ModeDir | 0o755}, "/closed": {0, 0, fs.ModeDir | 0o700}, "/closed/data": {0, 0, fs.ModeDir | 0o755}}
			expect(t, n.checkPostgres(t.Context(), tc.pg, files, fakeUsers{kineshim, stranger, rootUser}), tc.want...)
		})
	}
}

func TestTheDistributionsClustersAreFound(t *testing.T) {
	etc := t.TempDir()
	for name, content := range map[string]string{
		"16/main/postgresql.conf":  "#port = 1\nport = 5433\t\t# (change requires restart)\n",
		"16/main/start.conf":       "# Automatic startup configuration\n#   auto: as the boot does\n\nauto\n",
		"15/old/postgresql.conf":   "port = 5432\n  port 5434\nlisten_addresses = '*'\n",
		"15/old/start.conf":        "manual # for now\n",
		"14/plain/postgresql.conf": "listen_addresses = '*'\n",
	} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(etc, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		writeFile(t, filepath.Join(etc, name), content)
	}
	want := []DistributionCluster{
		{"14/plain", filepath.Join(etc, "14/plain/postgresql.conf"), "5432", true},
		{"15/old", filepath.Join(etc, "15/old/postgresql.conf"), "5434", false},
		{"16/main", filepath.Join(etc, "16/main/postgresql.conf"), "5433", true},
	}
	if d := cmp.Diff(want, localPostgres{etc}.Distribution()); d != "" {
		t.Error(d)
	}
}
