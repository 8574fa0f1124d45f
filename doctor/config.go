package doctor

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"strings"

	"kineshim/config"
	"kineshim/failover/postgres"
	"kineshim/tlsfiles"
)

const configCheck = "configuration"

// loadConfig reads the file as kineshim does. The findings are its mistakes; without any, the configuration is whole.
func loadConfig(path string) (config.Node, []Finding) {
	cfg, err := config.LoadNode(path)
	if err == nil {
		if serr := postgres.CheckSettings(cfg.Postgres.Settings); serr != nil {
			err = fmt.Errorf("%s:\n  postgres.settings: %w", path, serr)
		}
	}
	return cfg, judgeConfig(path, err)
}

// judgeConfig says what keeps the configuration from being used; nil for no error.
func judgeConfig(path string, err error) []Finding {
	n := notes{check: configCheck}
	switch {
	case err == nil:
	case errors.Is(err, fs.ErrNotExist):
		n.fail("kineshim init and kineshim join write it, as root; the package has an example, /usr/share/doc/kineshim/examples/kineshim.yaml\n"+
			"if it is elsewhere: shimctl doctor --config FILE", "there is no %s", path)
	case errors.Is(err, fs.ErrPermission):
		n.fail("run it as root: sudo shimctl doctor", "%s cannot be read: permission denied", path)
	default:
		n.fail("correct it; the keys are in configuration.md\nthen: kineshim --config "+path+" --check", "%s", countMistakes(err.Error()))
	}
	return n.all
}

// countMistakes says how many there are, if they stand below one another.
func countMistakes(text string) string {
	head, list, several := strings.Cut(text, ":\n")
	if !several {
		return text
	}
	mistakes := strings.Count(list, "\n") + 1
	if mistakes == 1 {
		return fmt.Sprintf("%s has a mistake:\n%s", head, list)
	}
	return fmt.Sprintf("%s has %d mistakes:\n%s", head, mistakes, list)
}

// checkConfig judges who may read the configuration, what it names, and the data directory. It has been loaded.
func (n *node) checkConfig(path string, files Files) []Finding {
	f := notes{check: configCheck}
	n.checkConfigFile(&f, path, files)
	n.checkNamedFiles(&f, files)
	n.checkDataDir(&f, files)
	return f.all
}

func (n *node) checkConfigFile(f *notes, path string, files Files) {
	s, err := files.Stat(path)
	if err != nil {
		f.fail("ls -l "+path, "whose it is, is not known: %v", err)
		return
	}
	const readable, writable, groupWritable = 0o004, 0o002, 0o020
	mode := s.Mode.Perm()
	var unreadable error
	if n.user.known {
		unreadable = reach(files, n.user.User, path, 4)
	}
	switch {
	case unreadable != nil:
		f.fail(remedyOf(unreadable), "%s is valid, but the service cannot read it: %v", path, unreadable)
	case mode&writable != 0:
		f.fail(n.onlyFor(path), "everybody on this machine can change %s (mode %04o): it names commands that the service runs", path, mode)
	case mode&groupWritable != 0:
		f.warn("chmod g-w "+path, "the group of %s can change it (mode %04o)", path, mode)
	case mode&readable != 0:
		f.warn(n.onlyFor(path), "%s can be read by everybody on this machine (mode %04o): it may hold passwords", path, mode)
	case s.UID != 0 && n.user.known && s.UID != n.user.UID:
		f.warn("chown root "+path, "%s belongs to the user %d, who is neither root nor the service's user", path, s.UID)
	case !n.user.known:
		f.ok("%s is valid, mode %04o; who runs kineshim is not known, so whether it may read it isn't either", path, mode)
	default:
		f.ok("%s is valid, and readable for the service's user %s and not for everybody (mode %04o)", path, n.user.Name, mode)
	}
}

// onlyFor is the command that leaves the file to root and the service.
func (n *node) onlyFor(path string) string {
	if !n.user.known || n.user.root() {
		return "chmod 600 " + path
	}
	return fmt.Sprintf("chgrp %s %s && chmod 640 %s", n.user.Name, path, path)
}

// checkNamedFiles looks whether the service can use the files that the configuration names.
func (n *node) checkNamedFiles(f *notes, files Files) {
	for _, named := range namedFiles(n.cfg) {
		if !n.user.known {
			break
		}
		if err := reach(files, n.user.User, named.path, named.bit); err != nil {
			f.fail(remedyOf(err), "%s: %v", named.key, err)
		}
	}
	checkShown(f, "client_tls", "clients", n.cfg.ClientTLS)
	checkShown(f, "applications", "applications", n.cfg.Applications.TLS())
}

// checkShown looks at the certificate that somebody is shown, in the files that the configuration names under key.
func checkShown(f *notes, key, whom string, t config.ClientTLS) {
	if !t.Enabled() {
		return
	}
	source, err := tlsfiles.Open(tlsfiles.Files{Cert: t.CertFile, Key: t.KeyFile, CA: t.TrustedCAFile}, slog.New(slog.DiscardHandler))
	if err != nil {
		f.fail("put a certificate and the key that belongs to it there, PEM", "%s: %v", key, err)
		return
	}
	for _, w := range source.Warnings() {
		f.warn("replace the file: kineshim reads it anew by itself", "%s: %s", key, w)
	}
	f.ok("%s: the certificate that %s are shown is good until %s", key, whom, day(source.Leaf().NotAfter))
}

// namedFile is a file that the configuration names, and what the service does with it.
type namedFile struct {
	key, path string
	bit       fs.FileMode
}

func namedFiles(cfg config.Node) []namedFile {
	all := []namedFile{
		{"client_tls.cert_file", cfg.ClientTLS.CertFile, 4}, {"client_tls.key_file", cfg.ClientTLS.KeyFile, 4}, {"client_tls.trusted_ca_file", cfg.ClientTLS.TrustedCAFile, 4},
		{"apiserver.ca_file", cfg.APIServer.CAFile, 4}, {"apiserver.cert_file", cfg.APIServer.CertFile, 4}, {"apiserver.key_file", cfg.APIServer.KeyFile, 4},
		{"applications.cert_file", cfg.Applications.CertFile, 4}, {"applications.key_file", cfg.Applications.KeyFile, 4},
	}
	for i, d := range cfg.Applications.Databases {
		all = append(all, namedFile{fmt.Sprintf("applications.databases.%d.password_file", i), d.PasswordFile, 4})
	}
	for i, v := range cfg.VIPs {
		if len(v.Hook) > 0 {
			all = append(all, namedFile{fmt.Sprintf("vips.%d.hook", i), v.Hook[0], 1})
		}
	}
	var named []namedFile
	for _, x := range all {
		if x.path != "" {
			named = append(named, x)
		}
	}
	return named
}

// checkDataDir looks whether the data directory is the service's, and nobody else's.
func (n *node) checkDataDir(f *notes, files Files) {
	dir := n.cfg.DataDir
	s, err := files.Stat(dir)
	owner := "kineshim"
	if n.user.known {
		owner = n.user.Name
	}
	give := fmt.Sprintf("chown -R %s: %s", owner, dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		f.fail(fmt.Sprintf("install -d -m 0700 -o %s -g %s %s", owner, owner, dir), "there is no data directory %s", dir)
	case err != nil:
		f.fail(remedyOf(err), "the data directory: %v", err)
	case !s.Mode.IsDir():
		f.fail("set data_dir to a directory", "%s is no directory", dir)
	case n.user.known && s.UID != n.user.UID:
		f.fail(give, "the data directory %s belongs to the user %d, and the service runs as %s (%d)", dir, s.UID, n.user.Name, n.user.UID)
	case s.Mode.Perm()&0o022 != 0:
		f.fail("chmod go-w "+dir, "others than its owner can write to the data directory %s (mode %04o)", dir, s.Mode.Perm())
	default:
		f.ok("the data directory %s is the service's (mode %04o)", dir, s.Mode.Perm())
	}
}
