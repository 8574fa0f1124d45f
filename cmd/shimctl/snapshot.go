package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"go.etcd.io/etcd/api/v3/etcdserverpb"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"kineshim/kineshim/snapshot"
)

// saveStall ends a save that no data arrive for: a primary that is lost takes its connections with it, silently.
const saveStall = time.Minute

func (a *app) snapshotCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "snapshot",
		Short: "save all keys to a file, look at one, restore one",
		Long: `snapshot saves all keys and leases, as they are at one moment, to a file; says what is in a file; and
puts a file's content in place of all that the cluster holds.

The file is kineshim's own. etcdctl snapshot save makes the same one; etcdutl can't read it.`,
		Example: `  shimctl snapshot save /backup/today.snap
  shimctl snapshot status /backup/today.snap
  sudo shimctl snapshot restore /backup/today.snap            into a cluster that holds no keys`,
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return fmt.Errorf("snapshot has no command %q: save, status or restore", args[0])
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.snapshotSaveCommand(), a.snapshotStatusCommand(), a.snapshotRestoreCommand())
	return cmd
}

// oneFile is for commands whose only argument is a file.
func oneFile(cmd *cobra.Command, args []string) error {
	if len(args) != 1 || args[0] == "" {
		return fmt.Errorf("snapshot %s takes one file, got %d arguments", cmd.Name(), len(args))
	}
	return nil
}

func (a *app) snapshotSaveCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "save FILE",
		Short: "save all keys and leases to FILE",
		Long: `save takes a snapshot of all keys and leases at one moment, while the cluster goes on, and saves it to
FILE. Any node can be asked: a standby gets it from the primary.

It is written to FILE.part, read back and verified, and only then takes the place of FILE: a FILE that
is there already stays as it is if anything fails.

Keep it elsewhere than on these servers, and as safe as the cluster itself: it holds every Secret.`,
		Example: `  shimctl snapshot save /backup/today.snap
  shimctl snapshot save "/backup/$(date +%F).snap" && find /backup -name '*.snap' -mtime +14 -delete`,
		Args: oneFile,
		RunE: command(func(ctx context.Context, args []string) error { return a.saveSnapshot(ctx, args[0]) }),
	}
}

func (a *app) saveSnapshot(ctx context.Context, path string) error {
	if err := a.onlyHere("a snapshot holds all that the cluster does"); err != nil {
		return err
	}
	n, err := a.open(ctx)
	if err != nil {
		return err
	}
	defer n.close()
	began := time.Now()
	part := path + ".part"
	f, err := openPart(part)
	if err != nil {
		return fmt.Errorf("nothing was saved: %w", err)
	}
	defer f.Close() // it is synced; the lock ends with it, when the file has its name or is gone
	header, size, err := a.fetchSnapshot(ctx, n, f)
	if err == nil {
		err = replaceFile(part, path)
	}
	if err != nil {
		if gone := os.Remove(part); gone != nil && !errors.Is(gone, os.ErrNotExist) {
			err = errors.Join(err, gone)
		}
		if ctx.Err() != nil {
			return errors.New("interrupted; nothing was saved")
		}
		return fmt.Errorf("nothing was saved: %w", err)
	}
	fmt.Fprintf(a.stdout, "Saved to %s in %s: %s.\n", path, showMillis(time.Since(began).Milliseconds()), snapshotText(header, size))
	return nil
}

// openPart opens an empty file for a snapshot that is being fetched, one that nobody else has open: what somebody else fetches may be renamed at any moment,
// and must not be emptied then.
func openPart(part string) (*os.File, error) {
	f, err := os.OpenFile(part, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	err = unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		err = fmt.Errorf("%s: another snapshot save writes it at the moment", part)
	}
	var now, opened os.FileInfo
	if err == nil {
		now, err = os.Stat(part)
	}
	if err == nil {
		opened, err = f.Stat()
	}
	if err == nil && !os.SameFile(now, opened) {
		err = fmt.Errorf("%s: another snapshot save has just finished: run this again", part)
	}
	if err == nil {
		err = errors.Join(f.Truncate(0), f.Chmod(0o600)) // a leftover's mode: it holds every Secret
	}
	if err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

// fetchSnapshot writes a snapshot to the file, syncs it, and verifies what the file then holds.
func (a *app) fetchSnapshot(ctx context.Context, n *node, f *os.File) (h snapshot.Header, size int64, err error) {
	if size, err = a.receiveSnapshot(ctx, n, f); err != nil {
		return h, 0, err
	}
	if err := f.Sync(); err != nil {
		return h, 0, err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return h, 0, err
	}
	h, err = snapshot.Verify(f)
	return h, size, err
}

// receiveSnapshot asks the node's etcd API, which is on the control socket too, for a snapshot and writes it down.
func (a *app) receiveSnapshot(ctx context.Context, n *node, to io.Writer) (int64, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stalled := time.AfterFunc(saveStall, cancel)
	defer stalled.Stop()
	stream, err := etcdserverpb.NewMaintenanceClient(n.conn).Snapshot(ctx, &etcdserverpb.SnapshotRequest{}, grpc.MaxCallRecvMsgSize(math.MaxInt32))
	if err != nil {
		return 0, explainSnapshot(n.socket, err)
	}
	show := a.newProgress("saving")
	defer show.end()
	var size int64
	for {
		m, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			return size, nil
		}
		if err != nil {
			if !stalled.Stop() {
				return size, fmt.Errorf("%s: nothing more arrived for %v; see shimctl status", n.socket, saveStall)
			}
			return size, explainSnapshot(n.socket, err)
		}
		stalled.Reset(saveStall)
		if _, err := to.Write(m.GetBlob()); err != nil {
			return size, err
		}
		size += int64(len(m.GetBlob()))
		show.at(size, size+int64(m.GetRemainingBytes()))
	}
}

// explainSnapshot puts an answer of the etcd API that is an error into an operator's words.
func explainSnapshot(socket string, err error) error {
	s := status.Convert(err)
	switch {
	case s.Code() == codes.Unimplemented && strings.HasPrefix(s.Message(), "unknown service"): // gRPC's own words
		return explainCall(socket, err)
	case s.Code() == codes.Unimplemented:
		return fmt.Errorf("%s: the engine that serves takes no snapshots: with engine: kine, use pg_dump (see docs/operations.md)", socket)
	case s.Code() == codes.Unavailable:
		return fmt.Errorf("%s: %s; see shimctl status", socket, s.Message())
	default:
		return fmt.Errorf("%s: %s", socket, s.Message())
	}
}

// replaceFile gives a synced file its name for good.
func replaceFile(part, path string) error {
	if err := os.Rename(part, path); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// snapshotText is what a snapshot holds, in a line.
func snapshotText(h snapshot.Header, size int64) string {
	return fmt.Sprintf("%d keys and %d leases at revision %d, %s", h.Keys, h.Leases, h.Revision, showBytes(uint64(size)))
}

// progress shows on a terminal how far something has got.
type progress struct {
	to   io.Writer // nil: no terminal
	what string
	last time.Time
}

// progressEvery is how often it is drawn.
const progressEvery = 100 * time.Millisecond

func (a *app) newProgress(what string) *progress {
	p := &progress{what: what}
	if isTerminal(a.stderr) {
		p.to = a.stderr
	}
	return p
}

// at shows the bytes that are done of all that are expected.
func (p *progress) at(done, of int64) {
	if p.to == nil || time.Since(p.last) < progressEvery {
		return
	}
	p.last = time.Now()
	fmt.Fprintf(p.to, "\r%s: %s, %d %%\x1b[K", p.what, showBytes(uint64(done)), 100*done/max(of, 1))
}

// say shows what is done instead.
func (p *progress) say(text string) {
	if p.to != nil {
		fmt.Fprintf(p.to, "\r%s\x1b[K", text)
	}
}

// end leaves an empty line.
func (p *progress) end() {
	if p.to != nil {
		fmt.Fprint(p.to, "\r\x1b[K")
	}
}
