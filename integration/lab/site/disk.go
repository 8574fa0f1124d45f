package site

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Disk is a small ext4 file system of a host's own, in a file. Its methods are for one goroutine at a time.
type Disk struct {
	image string
	// copies counts the disks that have taken its place.
	copies int
	// Path is where it is mounted.
	Path string
}

// AddDisk makes a file system of so many bytes and mounts it at the name below the site's directory. Nothing of it is reserved for root, so that
// all users see the same room.
func (s *Site) AddDisk(name string, bytes int64) (*Disk, error) {
	d := &Disk{image: filepath.Join(s.dir, name+".img"), Path: filepath.Join(s.dir, name)}
	f, err := os.OpenFile(d.image, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("add disk: %w", err)
	}
	if err := errors.Join(f.Truncate(bytes), f.Close(), os.MkdirAll(d.Path, 0o755)); err != nil {
		return nil, fmt.Errorf("add disk: %w", err)
	}
	if _, err := command("mkfs.ext4", "-q", "-m", "0", "-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard", d.image); err != nil {
		return nil, fmt.Errorf("add disk: %w", err)
	}
	if err := d.Mount(); err != nil {
		return nil, err
	}
	if err := os.Remove(filepath.Join(d.Path, "lost+found")); err != nil {
		return nil, fmt.Errorf("add disk: %w", err)
	}
	s.mu.Lock()
	s.disks[name] = d
	s.mu.Unlock()
	return d, os.Chmod(d.Path, 0o755)
}

// Disk is the disk of that name; nil if there is none.
func (s *Site) Disk(name string) *Disk {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.disks[name]
}

// Mount mounts it. An error found on it makes it read-only, as Debian's installer sets it up.
func (d *Disk) Mount() error {
	_, err := command("mount", "-o", "loop,errors=remount-ro", d.image, d.Path)
	return err
}

// Unmount unmounts it; nothing may use it. The loop device goes with it.
func (d *Disk) Unmount() error {
	return unmount(d.Path)
}

// unmount tries again while something holds the file system: a killed process may be a zombie, and so seem gone, while the last of its threads still closes files.
func unmount(path string) error {
	for end := time.Now().Add(detachWithin); ; time.Sleep(20 * time.Millisecond) {
		out, err := command("umount", path)
		if err == nil || !strings.Contains(out, "busy") || time.Now().After(end) {
			return err
		}
	}
}

// Repair makes a broken file system usable again, as an operator does after having stopped all that used it.
func (d *Disk) Repair() error {
	if err := d.detach(); err != nil {
		return err
	}
	if out, err := command("e2fsck", "-f", "-y", d.image); err != nil && !strings.Contains(out, "FILE SYSTEM WAS MODIFIED") && !strings.Contains(out, "recovering journal") {
		return err
	}
	return d.Mount()
}

// Remount is what a reboot does after a power cut: what was flushed is there, and the journal is replayed.
func (d *Disk) Remount() error {
	if err := d.detach(); err != nil {
		return err
	}
	return d.Mount()
}

// detachWithin is how long the kernel may take to let go of an unmounted file system, on a machine that is busy with a dozen other things.
const detachWithin = 20 * time.Second

// detach unmounts the file system and waits until the kernel has let go of it. While it is mounted in some other mount namespace, it keeps its state,
// broken as that may be: then the host gets another disk with the same content.
func (d *Disk) detach() error {
	if err := d.Unmount(); err != nil {
		return err
	}
	for end := time.Now().Add(detachWithin); ; time.Sleep(10 * time.Millisecond) {
		if !attached(d.image) {
			return nil
		}
		if time.Now().After(end) {
			break
		}
	}
	d.copies++
	other := fmt.Sprintf("%s.%d", d.image, d.copies)
	if _, err := command("cp", "--sparse=always", d.image, other); err != nil {
		return err
	}
	d.image = other
	return nil
}

// attached says whether a loop device still holds the file.
func attached(image string) bool {
	held, _ := filepath.Glob("/sys/block/loop*/loop/backing_file") // the pattern is well formed
	for _, h := range held {
		if b, err := os.ReadFile(h); err == nil && strings.TrimSpace(string(b)) == image {
			return true
		}
	}
	return false
}

// ReadOnly makes the kernel find an error on the file system, whereupon it remounts it read-only, open files or not: writes fail with EROFS.
func (d *Disk) ReadOnly() error {
	name, err := d.device()
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join("/sys/fs/ext4", name, "trigger_fs_error"), []byte("lab\n"), 0o200)
}

// shutdownNoFlush is EXT4_GOING_FLAGS_NOLOGFLUSH: nothing that is not on the disk yet gets there any more.
const shutdownNoFlush = 2

// ioctlShutdown is EXT4_IOC_SHUTDOWN, _IOR('X', 125, __u32).
const ioctlShutdown = 0x8004587d

// Break makes all I/O on the file system fail with EIO from now on, as that of a dead disk does.
func (d *Disk) Break() error {
	fd, err := unix.Open(d.Path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("break disk: %w", err)
	}
	defer unix.Close(fd)
	if err := unix.IoctlSetPointerInt(fd, ioctlShutdown, shutdownNoFlush); err != nil {
		return fmt.Errorf("break disk: %w", err)
	}
	return nil
}

// device is the name of the loop device.
func (d *Disk) device() (string, error) {
	b, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 2 && f[1] == d.Path {
			return filepath.Base(f[0]), nil
		}
	}
	return "", fmt.Errorf("%s is not mounted", d.Path)
}

// fillName is the file that fills a disk.
const fillName = ".lab-fill"

// Fill takes all room but about so many bytes, with a file of the lab's. The room is taken, not written.
func (d *Disk) Fill(leave int64) error {
	free, _, err := d.Room()
	if err != nil {
		return err
	}
	f, err := os.OpenFile(filepath.Join(d.Path, fillName), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("fill disk: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	more := free - leave
	if more <= 0 {
		return nil
	}
	for { // near the end, the file's own bookkeeping needs some room too
		err := unix.Fallocate(int(f.Fd()), 0, info.Size(), more)
		if !errors.Is(err, unix.ENOSPC) || more < 8<<10 {
			return err
		}
		more -= max(4<<10, more>>10)
	}
}

// Empty gives the room back.
func (d *Disk) Empty() error {
	err := os.Remove(filepath.Join(d.Path, fillName))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// Room is what is free on the disk, and how large it is, in bytes.
func (d *Disk) Room() (free, total int64, err error) {
	var s unix.Statfs_t
	if err := unix.Statfs(d.Path, &s); err != nil {
		return 0, 0, fmt.Errorf("statfs %s: %w", d.Path, err)
	}
	return int64(s.Bavail) * s.Bsize, int64(s.Blocks) * s.Bsize, nil
}
