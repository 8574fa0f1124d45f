package doctor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"path/filepath"
	"strings"

	"kineshim/failover/postgres"
)

const postgresCheck = "postgresql"

// Postgres is what PostgreSQL is installed here.
type Postgres interface {
	// Find is postgres.FindPrograms.
	Find(ctx context.Context, binDir, dataDir string) (postgres.Programs, error)
	// Distribution are the clusters that the distribution runs, as Debian's postgresql-common keeps them; none elsewhere.
	Distribution() []DistributionCluster
}

// DistributionCluster is a PostgreSQL that is none of kineshim's.
type DistributionCluster struct {
	// Name is VERSION/NAME; Config its configuration; Port where it listens. Automatic: it is started with the machine.
	Name, Config, Port string
	Automatic          bool
}

// checkPostgres judges the programs, the data directory's version, the user, and what else may want the port.
func (n *node) checkPostgres(ctx context.Context, p Postgres, files Files, users Users) []Finding {
	f := notes{check: postgresCheck}
	found, err := p.Find(ctx, n.cfg.Postgres.BinDir, filepath.Join(n.cfg.DataDir, "pgdata"))
	n.judgePrograms(&f, found, err)
	n.judgeOSUser(&f, files, users)
	if err == nil {
		n.judgeOtherMajor(&f, found.Major)
	}
	n.judgeDistribution(&f, p.Distribution())
	return f.all
}

func (n *node) judgePrograms(f *notes, p postgres.Programs, err error) {
	install := fmt.Sprintf("apt-get install postgresql-%d, or set postgres.bin_dir", max(p.DataMajor, 0))
	if p.DataMajor == 0 {
		install = "install PostgreSQL " + postgres.SupportedVersions() + " (apt-get install postgresql), or set postgres.bin_dir"
	}
	switch {
	case errors.Is(err, fs.ErrPermission):
		f.warn("run it as root: sudo shimctl doctor", "not looked at: %v", err)
	case err != nil:
		f.fail(install, "%v", err)
	case len(p.Missing) > 0:
		f.fail(install, "%s lacks %s", p.Dir, strings.Join(p.Missing, ", "))
	case !postgres.Supported(p.Major):
		f.fail(install, "PostgreSQL %d in %s: versions %s are supported", p.Major, p.Dir, postgres.SupportedVersions())
	case p.DataMajor != 0 && p.DataMajor != p.Major:
		f.fail(install, "PostgreSQL %d in %s, and the data in %s are of version %d", p.Major, p.Dir, filepath.Join(n.cfg.DataDir, "pgdata"), p.DataMajor)
	case p.DataMajor != 0:
		f.ok("PostgreSQL %d in %s, which is the data's version too", p.Major, p.Dir)
	default:
		f.ok("PostgreSQL %d in %s; there are no data yet", p.Major, p.Dir)
	}
}

// judgeOSUser: PostgreSQL refuses to be root, and only root can run it as somebody else.
func (n *node) judgeOSUser(f *notes, files Files, users Users) {
	name := n.cfg.Postgres.OSUser
	switch {
	case !n.user.known:
		f.warn("install kineshim's unit, or make its data directory", "who runs PostgreSQL is not known: neither kineshim's unit nor its data directory says")
		return
	case !n.user.root() && name != "" && name != n.user.Name:
		f.fail("take postgres.os_user out of the configuration",
			"postgres.os_user is %s, but kineshim runs as %s, and only root can run PostgreSQL as another user", name, n.user.Name)
		return
	case !n.user.root():
		f.ok("PostgreSQL runs as %s, kineshim's own user", n.user.Name)
		return
	case name == "":
		name = "postgres"
	}
	u, err := users.ByName(name)
	switch {
	case err != nil:
		f.fail("useradd --system "+name+", or set postgres.os_user", "kineshim runs as root, and there is no user %s to run PostgreSQL as: %v", name, err)
	case u.root():
		f.fail("set postgres.os_user to another user", "PostgreSQL refuses to run as root")
	default:
		if err := reach(files, u, n.cfg.DataDir, 1); err != nil && !errors.Is(err, fs.ErrNotExist) {
			f.fail("chmod o+x on that directory, or another data_dir", "kineshim runs PostgreSQL as %s: %v", name, err)
			return
		}
		f.ok("PostgreSQL runs as %s", name)
	}
}

// judgeOtherMajor says what is known of the other node's version. A standby that streams has the same: PostgreSQL's physical replication works within a
// major version only.
func (n *node) judgeOtherMajor(f *notes, major int) {
	other := n.other()
	for _, s := range n.status.GetNodes() {
		state := s.GetState()
		if state.GetStreaming() && s.GetReachable() {
			f.ok("%s has PostgreSQL %d too: the two replicate, which needs the same major version", other, major)
			return
		}
	}
	f.ok("which PostgreSQL %s has is not known from here: it must be %d too; shimctl doctor there says it", other, major)
}

// judgeDistribution finds a PostgreSQL of the distribution's that wants kineshim's port, now or when the machine starts.
func (n *node) judgeDistribution(f *notes, clusters []DistributionCluster) {
	_, port, err := net.SplitHostPort(n.self.postgres)
	if err != nil {
		return
	}
	for _, c := range clusters {
		if c.Port != port {
			continue
		}
		version, name, _ := strings.Cut(c.Name, "/")
		do := fmt.Sprintf("give one of the two another port: in %s, and restart it\nor, if nobody needs it, pg_dropcluster --stop %s %s, which deletes its data",
			c.Config, version, name)
		if c.Automatic {
			f.fail(do, "the distribution's PostgreSQL %s has port %s too, and is started with the machine", c.Name, port)
		} else {
			f.warn(do, "the distribution's PostgreSQL %s has port %s too", c.Name, port)
		}
	}
}
