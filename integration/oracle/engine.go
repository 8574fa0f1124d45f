package oracle

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

const (
	// binDirEnv names the directory of binaries that were built before.
	binDirEnv = "KINESHIM_BIN_DIR"
	// controlBound is for one request to an engineserver.
	controlBound = 60 * time.Second
	// serverStopBound is for an engineserver's end, after which it is killed.
	serverStopBound = 30 * time.Second
)

// engineServer is a process that runs endpoints of ours, each on a database of its own.
type engineServer struct {
	cmd     *exec.Cmd
	stdin   io.Closer
	control string
	built   string // a directory to remove
	client  http.Client
}

// startEngineServer runs the engineserver of the binary directory, or builds it.
func startEngineServer(engine string) (*engineServer, error) {
	s := &engineServer{client: http.Client{Timeout: controlBound}}
	dir := os.Getenv(binDirEnv)
	if dir == "" {
		var err error
		if dir, err = os.MkdirTemp("/tmp", "ks-oracle-bin-"); err != nil {
			return nil, err
		}
		s.built = dir
		build := exec.Command("go", "build", "-o", dir+"/", "./integration/cmd/engineserver")
		build.Dir = "../.."
		if out, err := build.CombinedOutput(); err != nil {
			return nil, fmt.Errorf("build engineserver: %w\n%s (%v)", err, out, s.stop())
		}
	}
	s.cmd = exec.Command(filepath.Join(dir, "engineserver"), "--engine", engine)
	s.cmd.Stderr = os.Stderr
	stdin, err1 := s.cmd.StdinPipe()
	stdout, err2 := s.cmd.StdoutPipe()
	if err := errors.Join(err1, err2, s.cmd.Start()); err != nil {
		s.cmd = nil
		return nil, errors.Join(err, s.stop())
	}
	s.stdin = stdin
	line, err := bufio.NewReader(stdout).ReadString('\n')
	address, ok := strings.CutPrefix(strings.TrimSpace(line), "control=")
	if !ok {
		return nil, fmt.Errorf("engineserver says %q (%v, %v)", line, err, s.stop())
	}
	s.control = "http://" + address
	return s, nil
}

// stop ends the process and what it runs. Its standard input is its life line: it also ends when this process is killed.
func (s *engineServer) stop() error {
	var err error
	if s.cmd != nil {
		_ = s.stdin.Close()
		killer := time.AfterFunc(serverStopBound, func() { _ = s.cmd.Process.Signal(syscall.SIGKILL) })
		err = s.cmd.Wait()
		killer.Stop()
	}
	if s.built != "" {
		err = errors.Join(err, os.RemoveAll(s.built))
	}
	return err
}

func (s *engineServer) post(path string, values url.Values, into any) error {
	response, err := s.client.Post(s.control+path+"?"+values.Encode(), "", nil)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		return err
	}
	if response.StatusCode != http.StatusOK {
		return fmt.Errorf("engineserver %s: %s: %s", path, response.Status, body)
	}
	if into == nil {
		return nil
	}
	return json.Unmarshal(body, into)
}

// endpoint is one of an engineServer's.
type endpoint struct {
	server *engineServer
	ID     string `json:"id"`
	Addr   string `json:"address"`
}

// open starts an endpoint on an empty database; virgin: one in which no engine has ever been.
func (s *engineServer) open(virgin bool) (*endpoint, error) {
	e := &endpoint{server: s}
	values := url.Values{}
	if virgin {
		values.Set("virgin", "1")
	}
	return e, s.post("/new", values, e)
}

func (e *endpoint) restart(hard bool) error {
	values := url.Values{"id": {e.ID}}
	if hard {
		values.Set("hard", "1")
	}
	return e.server.post("/restart", values, nil)
}

func (e *endpoint) close() error { return e.server.post("/close", url.Values{"id": {e.ID}}, nil) }
