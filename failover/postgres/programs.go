package postgres

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

// needed are PostgreSQL's programs that a Server runs. Distributions pack some of them apart from the server.
var needed = []string{"postgres", "initdb", "pg_basebackup", "pg_rewind", "pg_controldata"}

// Programs is the PostgreSQL that a Server would run.
type Programs struct {
	// Dir holds the programs. Missing are those needed ones that it does not hold.
	Dir     string
	Missing []string
	// Major is the server program's major version; 0 if it does not say it.
	Major int
	// DataMajor is that of the data directory; 0: there is none yet.
	DataMajor int
}

// Supported says whether this package is written for the major version.
func Supported(major int) bool { return major >= oldestMajor && major <= newestMajor }

// SupportedVersions names them, for people.
func SupportedVersions() string { return fmt.Sprintf("%d to %d", oldestMajor, newestMajor) }

// FindPrograms looks for PostgreSQL as New does, with the same meaning of binDir and dataDir, and asks it for its version. The error is New's
// when there is none.
func FindPrograms(ctx context.Context, binDir, dataDir string) (Programs, error) {
	var p Programs
	b, err := os.ReadFile(filepath.Join(dataDir, "PG_VERSION"))
	switch {
	case err == nil:
		if p.DataMajor, err = strconv.Atoi(strings.TrimSpace(string(b))); err != nil {
			return p, fmt.Errorf("read %s: %w", filepath.Join(dataDir, "PG_VERSION"), err)
		}
	case !errors.Is(err, fs.ErrNotExist):
		return p, err
	}
	if p.Dir, err = findBinDir(binDir, dataDir); err != nil {
		return p, err
	}
	for _, name := range needed {
		if fi, err := os.Stat(filepath.Join(p.Dir, name)); err != nil || fi.Mode()&0o111 == 0 {
			p.Missing = append(p.Missing, name)
		}
	}
	out, err := exec.CommandContext(ctx, filepath.Join(p.Dir, "postgres"), "--version").Output()
	if err != nil {
		return p, fmt.Errorf("ask PostgreSQL for its version: %w", err)
	}
	m := versionPattern.FindSubmatch(out)
	if m == nil {
		return p, fmt.Errorf("postgres --version: %q is not a version", out)
	}
	p.Major, err = strconv.Atoi(string(m[1]))
	return p, err
}

// CheckSettings says what is wrong with settings that are to be added to postgresql.conf.
func CheckSettings(settings map[string]string) error { return validateSettings(settings) }
