package unit

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// Sandbox is what of a service's unit says as whom it runs and where it may write, in the words of systemctl show.
type Sandbox struct{ User, StateDirectory, ReadWritePaths, ProtectSystem string }

// SandboxProperties are what systemctl show is asked for.
var SandboxProperties = []string{"User", "StateDirectory", "ReadWritePaths", "ProtectSystem"}

// NewSandbox takes what systemctl show has answered.
func NewSandbox(properties map[string]string) Sandbox {
	return Sandbox{properties["User"], properties["StateDirectory"], properties["ReadWritePaths"], properties["ProtectSystem"]}
}

// MayWrite says whether the unit lets the service write below the directory.
func (s Sandbox) MayWrite(dir string) bool {
	if s.ProtectSystem != "strict" {
		return true
	}
	var writable []string
	for _, d := range strings.Fields(s.StateDirectory) {
		writable = append(writable, filepath.Join("/var/lib", d))
	}
	for _, p := range strings.Fields(s.ReadWritePaths) {
		writable = append(writable, strings.TrimLeft(p, "-+"))
	}
	for _, w := range writable {
		if rest, err := filepath.Rel(w, dir); err == nil && rest != ".." && !strings.HasPrefix(rest, "../") {
			return true
		}
	}
	return false
}

// Allow is the command that lets the service write there.
func Allow(service, dir string) string {
	return fmt.Sprintf("systemctl edit %s, and put in: [Service] and below it ReadWritePaths=%s", strings.TrimSuffix(service, ".service"), dir)
}

// Fits says, before anything is written, why the service cannot work with the data directory and what to do; nil: it can, or systemd does not know the service.
func Fits(ctx context.Context, service, dataDir string) error {
	if !Known(ctx, service) {
		return nil
	}
	properties, err := Show(ctx, service, SandboxProperties...)
	if err != nil {
		return err
	}
	s := NewSandbox(properties)
	return s.refuse(service, dataDir, uidOf(s.User))
}

// uidOf is the user's; 0 also for one who is not known, as one whom systemd makes when the service starts.
func uidOf(name string) int {
	if uid, err := strconv.Atoi(name); err == nil {
		return uid
	}
	u, err := user.Lookup(name)
	if err != nil {
		return 0
	}
	uid, err := strconv.Atoi(u.Uid)
	if err != nil {
		return 0
	}
	return uid
}

// refuse judges the directory for a service whose user has the UID.
func (s Sandbox) refuse(service, dataDir string, uid int) error {
	var todo []string
	fi, err := os.Stat(dataDir)
	switch {
	case uid == 0:
	case errors.Is(err, fs.ErrNotExist) || err == nil && int(fi.Sys().(*syscall.Stat_t).Uid) != uid:
		todo = append(todo, fmt.Sprintf("install -d -m 0700 -o %s -g %s %s", s.User, s.User, dataDir))
	case err != nil:
		return err
	}
	if !s.MayWrite(dataDir) {
		todo = append(todo, Allow(service, dataDir))
	}
	if len(todo) == 0 {
		return nil
	}
	return fmt.Errorf("%s runs as %s and cannot use %s as it is; nothing was changed. Then run this command again:\n  %s", service, s.User, dataDir, strings.Join(todo, "\n  "))
}
