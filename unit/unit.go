// Package unit has systemd start a service of ours, where there is a systemd that knows it.
package unit

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strings"
)

// booted is there if systemd runs this machine: sd_booted(3).
const booted = "/run/systemd/system"

// Known says whether systemd runs here and knows the service.
func Known(ctx context.Context, service string) bool {
	if _, err := os.Stat(booted); errors.Is(err, fs.ErrNotExist) {
		return false
	}
	return systemctl(ctx, "cat", service) == nil
}

// Start starts the service, unless it runs, and has it start with the machine. It returns when the service says that it is ready.
func Start(ctx context.Context, service string) error {
	if err := systemctl(ctx, "enable", "--now", service); err != nil {
		return err
	}
	return runs(ctx, service)
}

// Restart starts the service, or starts it anew if it runs, and has it start with the machine. It returns when the service says that it is ready.
func Restart(ctx context.Context, service string) error {
	if err := systemctl(ctx, "enable", service); err != nil {
		return err
	}
	if err := systemctl(ctx, "restart", service); err != nil {
		return err
	}
	return runs(ctx, service)
}

// runs reports a service that does not run although it was started: systemd calls it no failure when a condition of its unit is not met.
func runs(ctx context.Context, service string) error {
	return systemctl(ctx, "is-active", service)
}

// Show asks systemd for properties of a unit, which anybody may. Those of a unit that it does not know are there too.
func Show(ctx context.Context, name string, properties ...string) (map[string]string, error) {
	out, err := exec.CommandContext(ctx, "systemctl", "show", name, "--no-pager", "--property="+strings.Join(properties, ",")).Output()
	if err != nil {
		return nil, fmt.Errorf("systemctl show %s: %w", name, err)
	}
	return parse(string(out)), nil
}

// parse reads NAME=VALUE, a line each.
func parse(out string) map[string]string {
	properties := map[string]string{}
	for line := range strings.Lines(out) {
		if name, value, ok := strings.Cut(strings.TrimSpace(line), "="); ok {
			properties[name] = value
		}
	}
	return properties
}

func systemctl(ctx context.Context, args ...string) error {
	out, err := exec.CommandContext(ctx, "systemctl", args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("systemctl %s: %w: %s", strings.Join(args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}
