// Package site makes the place where a lab's hosts live: network namespaces on a switch, links that can be cut, and small file systems that
// can be filled and broken. Nothing of the machine's own network is touched, and nothing is left behind: what a killed lab leaves, Sweep removes.
//
// It needs CAP_SYS_ADMIN and CAP_NET_ADMIN, ip, nft and mount; Supported says what is missing. File systems also need mkfs.ext4.
package site

import (
	"errors"
	"fmt"
	"os"
	"os/exec"

	"golang.org/x/sys/unix"
)

// ErrUnsupported: this machine, or this user, cannot make namespaces, links or mounts.
var ErrUnsupported = errors.New("the lab needs network namespaces and mounts")

// Supported says why a site cannot be made here; nil if it can.
func Supported() error {
	for _, tool := range []string{"ip", "nft", "mount", "umount", "mkfs.ext4"} {
		if _, err := exec.LookPath(tool); err != nil {
			return fmt.Errorf("%w: %s is not installed (Debian: iproute2 nftables mount e2fsprogs)", ErrUnsupported, tool)
		}
	}
	var caps [2]unix.CapUserData
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3, Pid: int32(os.Getpid())}
	if err := unix.Capget(&header, &caps[0]); err != nil {
		return fmt.Errorf("%w: capget: %w", ErrUnsupported, err)
	}
	for bit, name := range map[uint]string{unix.CAP_SYS_ADMIN: "CAP_SYS_ADMIN", unix.CAP_NET_ADMIN: "CAP_NET_ADMIN"} {
		if caps[bit/32].Effective&(1<<(bit%32)) == 0 {
			return fmt.Errorf("%w: this process lacks %s: run it as root", ErrUnsupported, name)
		}
	}
	if err := os.MkdirAll(namespaceDir, 0o755); err != nil {
		return fmt.Errorf("%w: %w", ErrUnsupported, err)
	}
	// A container may have the capabilities and still forbid it.
	o, err := self()
	if err != nil {
		return err
	}
	name := o.String() + "-probe-x"
	if _, err := command("ip", "netns", "add", name); err != nil {
		return fmt.Errorf("%w: %w", ErrUnsupported, err)
	}
	if _, err := command("ip", "netns", "del", name); err != nil {
		return fmt.Errorf("%w: %w", ErrUnsupported, err)
	}
	return nil
}
