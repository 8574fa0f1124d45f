package postgres

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

const (
	// maxLogBytes is where PostgreSQL's log becomes postgres.log.1: two such files fit on any SD card.
	maxLogBytes = 16 << 20
	// limitLogEvery is how often a running server's log is looked at. A standby without a primary writes 100 MB a day.
	limitLogEvery = time.Minute
	// tailBytes is how much of the log an error message looks at.
	tailBytes = 4096
)

func (s *Server) logPath() string { return filepath.Join(s.cfg.StateDir, "postgres.log") }

// openLog opens PostgreSQL's log for appending.
func (s *Server) openLog() (*os.File, error) {
	if err := s.rotateLog(); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(s.logPath(), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	if err := errors.Join(f.Chown(s.usr.uid, s.usr.gid), f.Chmod(0o600)); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// rotateLog moves a log that has grown too long to postgres.log.1, by copying: PostgreSQL keeps the file open and appends. A
// line that it writes during the copy may be lost.
func (s *Server) rotateLog() error {
	path := s.logPath()
	fi, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil || fi.Size() <= maxLogBytes {
		return err
	}
	if err := copyFile(path+".1", path); err != nil {
		return err
	}
	return os.Truncate(path, 0)
}

// limitLog rotates the log while the postmaster lives.
func (s *Server) limitLog(ctx context.Context) {
	t := time.NewTicker(limitLogEvery)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			if err := s.rotateLog(); err != nil {
				s.log.Warn("postgresql's log cannot be rotated", "err", err)
			}
		case <-ctx.Done():
			return
		}
	}
}

// logTail returns the last lines that PostgreSQL wrote after offset, for an error message.
func (s *Server) logTail(offset int64) string {
	f, err := os.Open(s.logPath())
	if err != nil {
		return ""
	}
	defer f.Close()
	if end, err := f.Seek(0, io.SeekEnd); err == nil && end-offset > tailBytes {
		offset = end - tailBytes
	}
	b, err := io.ReadAll(io.NewSectionReader(f, offset, tailBytes))
	if err != nil {
		return ""
	}
	l := &lines{}
	l.Write(b)
	l.flush()
	return l.tail()
}
