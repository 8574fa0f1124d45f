package raftwitness

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"kineshim/durable"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
)

const (
	// madeFile says that this directory has held a Raft log, and of which server ID.
	madeFile = "raft.made"
	// livesFile has the lives of this voter, and what it knows of the others.
	livesFile = "lives.json"
	// rememberAfter gathers what is learned of others: an election and its commands cost one write. What a crash loses of it makes
	// a later check weaker, never wrong.
	rememberAfter = time.Second
)

// termKey is where hashicorp/raft keeps its term.
var termKey = []byte("CurrentTerm")

// logKey is where the log keeps its ID, so that a log put in the place of another is told from it.
var logKey = []byte("kineshim.log")

// Void says why a voter votes no more, for good.
type Void struct {
	// Breach is wiped, restored, duplicated or superseded.
	Breach string `json:"breach"`
	// Why is what the voter By has said, for people.
	Why string    `json:"why"`
	By  string    `json:"by"`
	At  time.Time `json:"at"`
}

// lives is the content of livesFile.
type lives struct {
	Server string           `json:"server"`
	Log    string           `json:"log"`
	Life   uint64           `json:"life"`
	Nonce  string           `json:"nonce"`
	Void   *Void            `json:"void,omitempty"`
	Others map[string]known `json:"others"`
}

// memory keeps lives on disk. Its methods may be called by anybody at any time.
type memory struct {
	path string
	log  *slog.Logger
	// newLife, if not nil, is told that a voter that was known is in a new life. It must not call back. Set before anybody else knows the memory.
	newLife func(server string)
	// dirty has a value while something waits to be written.
	dirty chan struct{}

	// file is held by who writes the file, and taken before mu: a heartbeat waits for mu, and must not wait for a slow disk.
	file sync.Mutex
	// failing: the last write has failed, which is said once. Held with file.
	failing bool

	mu sync.Mutex // guards the fields below
	lives
	// held is the last entry that each server is known to have stored, committed or not yet.
	held map[string]uint64
}

// openMemory makes the Raft log, once in a voter's life, and begins a new life of it. A voter that has lost its log has forgotten its
// votes and its entries: if it began anew under its old server ID, it could vote twice in a term, or elect a leader that lacks what was
// committed.
//
// What is made when, so that a crash in between is told from a loss: livesFile with life 0, the log, the log's ID in it, madeFile, life 1.
func (n *Node) openMemory(c *raft.Config, snaps raft.SnapshotStore) error {
	id := n.cfg.Identity
	m := &memory{path: filepath.Join(n.cfg.Dir, livesFile), log: n.cfg.Log, dirty: make(chan struct{}, 1), held: map[string]uint64{}}
	n.memory = m
	marked, err := n.marked()
	if err != nil {
		return err
	}
	if err := m.load(); err != nil {
		return err
	}
	has, err := raft.HasExistingState(n.store, n.store, snaps)
	if err != nil {
		return fmt.Errorf("read the Raft log: %w", err)
	}
	logID, err := readLogID(n.store)
	if err != nil {
		return fmt.Errorf("read the Raft log: %w", err)
	}
	lost := func(what string) error {
		return fmt.Errorf("%s in %s is lost: voter %s does not know what it has voted for; %s",
			what, n.cfg.Dir, id.ServerID, wiped.remedy(id.self().Member))
	}
	switch {
	case m.Server != "" && m.Server != id.ServerID:
		return fmt.Errorf("the Raft log in %s is that of voter %s, this is %s: move it away", n.cfg.Dir, m.Server, id.ServerID)
	case (marked || m.Life > 0) && !has && logID == "":
		return lost("the Raft log")
	case m.Life > 0 && logID != m.Log:
		return lost("the Raft log that belongs to " + livesFile)
	case logID != "" && m.Log == "":
		return lost(livesFile)
	case m.Log == "":
		m.Server, m.Log = id.ServerID, newNonce()
		if err := m.put(m.lives); err != nil {
			return err
		}
	}
	if !has && logID == "" && id.founds() { // a voter that is enrolled later learns of the others from the leader
		if err := raft.BootstrapCluster(c, n.store, n.store, snaps, n.voter, n.servers()); err != nil {
			return fmt.Errorf("make the Raft log: %w", err)
		}
	}
	if logID == "" {
		if err := n.store.Set(logKey, []byte(m.Log)); err != nil {
			return fmt.Errorf("make the Raft log: %w", err)
		}
	}
	if !marked {
		if err := durable.Write(filepath.Join(n.cfg.Dir, madeFile), []byte(id.ServerID+"\n"), 0o600); err != nil {
			return fmt.Errorf("make the Raft log: %w", err)
		}
	}
	return m.begin()
}

// marked says whether the directory has held a log of this voter.
func (n *Node) marked() (bool, error) {
	b, err := os.ReadFile(filepath.Join(n.cfg.Dir, madeFile))
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read the Raft log: %w", err)
	}
	if of := strings.TrimSpace(string(b)); of != n.cfg.Identity.ServerID {
		return false, fmt.Errorf("the Raft log in %s is that of voter %s, this is %s: move it away", n.cfg.Dir, of, n.cfg.Identity.ServerID)
	}
	return true, nil
}

func readLogID(store *raftboltdb.BoltStore) (string, error) {
	b, err := store.Get(logKey)
	if errors.Is(err, raftboltdb.ErrKeyNotFound) {
		return "", nil
	}
	return string(b), err
}

func newNonce() string {
	b := make([]byte, 8)
	rand.Read(b)
	return hex.EncodeToString(b)
}

func (m *memory) load() error {
	b, err := os.ReadFile(m.path)
	if err == nil {
		err = json.Unmarshal(b, &m.lives)
	}
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("read %s: %w", m.path, err)
	}
	if m.Others == nil {
		m.Others = map[string]known{}
	}
	return nil
}

// begin begins a new life. It is durable when begin returns: before anybody hears of it, or of m.
func (m *memory) begin() error {
	m.Life++
	m.Nonce = newNonce()
	return m.put(m.lives)
}

// put writes the file. m.file is held, or nobody else knows m; a flush may take as long as the disk likes, so m.mu is not held once others know m.
func (m *memory) put(l lives) error {
	b, err := json.Marshal(l)
	if err == nil {
		err = durable.Write(m.path, append(b, '\n'), 0o600)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", m.path, err)
	}
	return nil
}

// copied returns the lives as they are, to be written without m.mu, which is held.
func (m *memory) copied() lives {
	l := m.lives
	l.Others = maps.Clone(l.Others)
	return l
}

// void returns why this voter is void; nil: it is not.
func (m *memory) void() *Void {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.Void
}

// setVoid makes this voter void, for good. It reports whether that is news. It holds in this process even if it cannot be written.
func (m *memory) setVoid(v Void) (news bool, err error) {
	m.file.Lock()
	defer m.file.Unlock()
	m.mu.Lock()
	if m.Void != nil {
		m.mu.Unlock()
		return false, nil
	}
	m.Void = &v
	l := m.copied()
	m.mu.Unlock()
	return true, m.put(l)
}

// of returns what is known of the server.
func (m *memory) of(server string) known {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.Others[server]
}

// accept judges the claim by what is known now and remembers it. What is new of a life is durable when it returns "", nil.
func (m *memory) accept(server string, c claim) (b breach, why string, err error) {
	m.file.Lock() // so that but for what is seen of the server nothing changes while it is written
	defer m.file.Unlock()
	m.mu.Lock()
	old := m.Others[server]
	b, why = old.judge(c)
	k := old.with(c)
	if b != "" || k.Log == old.Log && k.Life == old.Life {
		if b == "" && k != old {
			m.Others[server] = k
			m.soon()
		}
		m.mu.Unlock()
		return b, why, nil
	}
	l := m.copied()
	l.Others[server] = k
	m.mu.Unlock()
	if err := m.put(l); err != nil {
		return "", "", err
	}
	m.mu.Lock()
	m.Others[server] = m.Others[server].with(c)
	delete(m.held, server)
	m.mu.Unlock()
	if old.Log != "" && m.newLife != nil {
		m.newLife(server)
	}
	return "", "", nil
}

// saw notes that the server has stored the term, all entries up to the one at index held, and that what is committed reaches to the index
// commit. What is of a server that has not said who it is, is not noted.
func (m *memory) saw(server string, term, held, commit uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	k, ok := m.Others[server]
	if !ok {
		return
	}
	m.held[server] = max(m.held[server], held)
	now := k
	now.Term, now.Index = max(k.Term, term), max(k.Index, min(m.held[server], commit))
	if now != k {
		m.Others[server] = now
		m.soon()
	}
}

// soon has the file written.
func (m *memory) soon() {
	select {
	case m.dirty <- struct{}{}:
	default:
	}
}

// run writes what is learned, some time after it was, until ctx ends; then the rest.
func (m *memory) run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			m.writeIfDirty()
			return
		case <-m.dirty:
			m.soon()
		}
		t := time.NewTimer(rememberAfter)
		select {
		case <-t.C:
		case <-ctx.Done():
		}
		t.Stop()
		m.writeIfDirty()
	}
}

func (m *memory) writeIfDirty() {
	select {
	case <-m.dirty:
		m.write()
	default:
	}
}

func (m *memory) write() {
	m.file.Lock()
	defer m.file.Unlock()
	m.mu.Lock()
	l := m.copied()
	m.mu.Unlock()
	err := m.put(l)
	if err != nil {
		m.soon()
	}
	switch failing := err != nil; {
	case failing && !m.failing:
		m.log.Warn("what is known of the other voters could not be stored: tried again every second", "error", err)
	case !failing && m.failing:
		m.log.Info("what is known of the other voters can be stored again")
	}
	m.failing = err != nil
}
