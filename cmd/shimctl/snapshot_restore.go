package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"kineshim/kineshim/snapshot"
	"kineshim/proto"
)

const (
	// restoreChunk is what one message carries; gRPC takes 4 MiB at most.
	restoreChunk = 256 << 10
	// replacePhrase is what must be typed before keys are thrown away.
	replacePhrase = "replace all keys"
)

// restoring is how a snapshot is to be restored.
type restoring struct {
	replace, yes, keepRevision bool
}

func (a *app) snapshotRestoreCommand() *cobra.Command {
	var o restoring
	cmd := &cobra.Command{
		Use:   "restore FILE",
		Short: "put FILE's content in place of all that the cluster holds",
		Long: `restore puts the keys and leases of FILE in place of all that the cluster holds, on both data nodes.
It must be run on the primary. FILE is verified first, here and there; until that is done nothing changes.

Stop k3s on all servers before, and start it again afterwards.

If the cluster holds keys already, it is refused (exit code 5) unless you say --replace and type
"` + replacePhrase + `".

Keys keep their revisions, but the cluster's own jumps ahead by a million: clients that knew the cluster
at a later moment than the snapshot's are told to list again, instead of being shown a wrong history.`,
		Example: `  sudo shimctl snapshot restore /backup/today.snap
  sudo shimctl snapshot restore /backup/today.snap --replace       into a cluster that is in use: its keys are lost`,
		Args: func(cmd *cobra.Command, args []string) error {
			if o.yes && !o.replace {
				return errors.New("--yes answers what --replace asks; without --replace nothing is asked")
			}
			return oneFile(cmd, args)
		},
		RunE: command(func(ctx context.Context, args []string) error { return a.restoreSnapshot(ctx, args[0], o) }),
	}
	cmd.Flags().BoolVar(&o.replace, "replace", false, "throw away the keys that the cluster holds; asks first")
	cmd.Flags().BoolVar(&o.yes, "yes", false, "with --replace: do not ask")
	cmd.Flags().BoolVar(&o.keepRevision, "keep-revision", false, "do not jump ahead, if the cluster has not reached the snapshot's revision:\nonly if nothing was written after the snapshot was taken")
	return cmd
}

func (a *app) restoreSnapshot(ctx context.Context, path string, o restoring) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // only read
	h, size, err := verifySnapshot(f)
	if err != nil {
		return fmt.Errorf("%s: %w\nnothing has changed", path, err)
	}
	if err := a.onlyHere("a snapshot holds all that the cluster does"); err != nil {
		return err
	}
	n, err := a.connect(ctx, func(st *proto.StatusResponse) error {
		if st.GetPrimary() != st.GetNode() {
			return fmt.Errorf("this is %s: a snapshot is restored on the primary, %s; run shimctl there, or name its socket with --socket",
				st.GetNode(), orDash(st.GetPrimary()))
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("no primary answers\n%s\nnothing has changed", indent(err.Error()))
	}
	defer n.close()
	fmt.Fprint(a.stdout, renderRestore(n.status, path, h, size, o))
	if o.replace && !o.yes {
		if err := a.confirm(ctx, replacePhrase); err != nil {
			return err
		}
	}
	return a.uploadSnapshot(ctx, n, f, size, o)
}

// renderRestore says what is about to happen.
func renderRestore(st *proto.StatusResponse, path string, h snapshot.Header, size int64, o restoring) string {
	text := fmt.Sprintf("Restore %s: %s,\n  taken at %s, %s ago by this machine's clock", path, snapshotText(h, size),
		h.Taken.Format(time.DateTime), showMillis(max(0, time.Since(h.Taken).Milliseconds())))
	switch h.ClusterID {
	case "":
	case st.GetClusterId():
		text += ", of this cluster"
	default:
		text += ", of cluster " + h.ClusterID
	}
	text += ".\n"
	if o.replace {
		text += fmt.Sprintf("  ALL KEYS of cluster %s are lost, on both data nodes.\n", st.GetClusterId())
	}
	return text
}

// uploadSnapshot sends the file and reports the end. An end that is not known is never reported as a failure.
func (a *app) uploadSnapshot(ctx context.Context, n *node, f *os.File, size int64, o restoring) error {
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := n.control.Restore(ctx)
	if err != nil {
		return explainCall(n.socket, err)
	}
	show := a.newProgress("restoring")
	defer show.end()
	first := &proto.RestoreRequest{Replace: o.replace, KeepRevision: o.keepRevision, Operator: operator()}
	sent, err := send(stream, first, f, func(sent int64) { show.at(sent, size) })
	if err != nil {
		return fmt.Errorf("read the file: %w; nothing has changed", err) // the stream is cancelled before its end
	}
	show.say("restoring: the primary verifies and writes it")
	r, err := stream.CloseAndRecv()
	show.end()
	if err == nil {
		fmt.Fprintf(a.stdout, "Restored: %d keys, revision %d, took %s. Start k3s on all servers again; whether the primary serves: shimctl status\n",
			r.GetKeys(), r.GetRevision(), showMillis(r.GetTookMs()))
		return nil
	}
	return explainRestore(n.socket, err, sent == size)
}

// send sends the file after the first message. It stops without an error when the other side has heard enough: why, the end of
// the stream says.
func send(stream proto.Control_RestoreClient, m *proto.RestoreRequest, f io.Reader, sent func(int64)) (int64, error) {
	var n int64
	for {
		buf := make([]byte, restoreChunk)
		got, err := io.ReadFull(f, buf)
		if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			return n, err
		}
		m.Data = buf[:got]
		if got > 0 || m.GetOperator() != "" {
			if stream.Send(m) != nil {
				return n, nil
			}
		}
		n += int64(got)
		sent(n)
		if err != nil {
			return n, nil
		}
		m = &proto.RestoreRequest{}
	}
}

// explainRestore says why a snapshot was not restored, or that nobody knows. whole: all of it had been sent.
func explainRestore(socket string, err error, whole bool) error {
	s := status.Convert(err)
	switch s.Code() {
	case codes.FailedPrecondition:
		return exitWith(exitUnsafe, "not restored: %s", s.Message())
	case codes.InvalidArgument, codes.Aborted:
		return fmt.Errorf("not restored: %s", s.Message())
	case codes.Unimplemented:
		return explainCall(socket, err)
	}
	if !whole {
		return fmt.Errorf("%w\nnothing has changed: the snapshot had not been sent to its end", explainCall(socket, err))
	}
	return fmt.Errorf("%w\nthe snapshot may have been restored, or yet be: look at the keys and at kineshim's log before you try again", explainCall(socket, err))
}
