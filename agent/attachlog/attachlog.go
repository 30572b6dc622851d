//go:build linux

// Package attachlog keeps the node's Pod attachments on disk: which Pod has which addresses. The CNI
// server answers an ADD only when its entry is durable, so the log is written for that: entries of
// requests that arrive together are one write and one fdatasync, into a file whose blocks are written
// beforehand, so that the file system has nothing of its own to put on disk.
//
// The file is text: a header, then one line per batch, the CRC-32C of the rest in hexadecimal and a
// JSON array of entries. Zeros fill it to its size. When it is full, and whenever it is opened, it is
// written anew from the state, beside the old one, and renamed.
//
// A batch is on disk before the next one is written, so only the last one can be torn. A bad line with
// a good one behind it is therefore damage, which is reported by the name of the file, and never passed
// over in silence: the damaged file is kept under another name.
package attachlog

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/weftnet/weftnet/agent/state"
)

// FileName is the name of the log in its folder.
const FileName = "attachments.log"

// Config of a Log.
type Config struct {
	// Dir is the folder, made if it is missing.
	Dir string
	// Boot names the current boot of the machine, and Now is the time since then on a clock that no
	// one sets (CLOCK_BOOTTIME). The times in the log are of this clock.
	Boot string
	Now  func() time.Duration
	// KeepReleased is how long a released address is remembered.
	KeepReleased time.Duration
	// LockWait is how long Open waits for another process to let go of the log.
	LockWait time.Duration
}

// Recovery is what Open found beyond the state.
type Recovery struct {
	// Fresh says that there was no log.
	Fresh bool
	// Torn says that the last batch was cut short: nobody was told of it.
	Torn bool
	// Damage says that entries may be lost; it names the file.
	Damage error
	// Unwritable says that no new file could be begun, as on a full disk: what is there counts, and the next
	// entry tries again.
	Unwritable error
}

// Log is an open log. Append may be called by many at once.
type Log struct {
	cfg  Config
	lock *os.File
	wake chan struct{}
	done chan struct{}

	mu      sync.Mutex
	state   State
	pending []*Ticket
	closed  bool

	// Of the committer alone.
	file   *os.File
	offset int64
	size   int64
	broken bool
}

// ErrClosed is returned for entries given to a closed log, and ErrLocked by Open while another
// process has the log open.
var (
	ErrClosed = errors.New("the attachment log is closed")
	ErrLocked = errors.New("another agent has the attachment log open")
)

// Ticket is the receipt for entries.
type Ticket struct {
	entries          []Entry
	written, durable chan struct{}
	err              error
}

// Written waits until the entries survive the end of this process.
func (t *Ticket) Written() error {
	<-t.written
	select {
	case <-t.durable:
		return t.err
	default:
		return nil
	}
}

// Durable waits until the entries survive the end of the machine.
func (t *Ticket) Durable() error {
	<-t.durable
	return t.err
}

// Open reads the log and starts a new file from what it says. Where a log was read and no new file can be written,
// it is open nevertheless, so that a full disk does not keep the agent from its other work. Only one process at a time has it
// open: an agent that starts while its predecessor still ends waits for it, and at last gets ErrLocked.
func Open(c Config) (*Log, Recovery, error) {
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return nil, Recovery{}, fmt.Errorf("make the folder of the attachment log: %w", err)
	}
	lock, err := lockFile(filepath.Join(c.Dir, "lock"), c.LockWait)
	if err != nil {
		return nil, Recovery{}, err
	}
	l := &Log{cfg: c, lock: lock, wake: make(chan struct{}, 1), done: make(chan struct{})}
	rec, err := l.recover()
	if err != nil {
		return nil, rec, errors.Join(err, lock.Close())
	}
	if err := l.rewrite(); err != nil {
		if rec.Fresh { // there is nothing to go by: no Pod of this node could be told from a stranger
			return nil, rec, errors.Join(fmt.Errorf("begin the attachment log (it is made when the disk takes it): %w", err), lock.Close())
		}
		rec.Unwritable, l.broken = err, true
	}
	go l.run()
	return l, rec, nil
}

func (l *Log) path() string { return filepath.Join(l.cfg.Dir, FileName) }

func (l *Log) recover() (Recovery, error) {
	data, err := os.ReadFile(l.path())
	if errors.Is(err, fs.ErrNotExist) {
		l.state = newState()
		return Recovery{Fresh: true}, nil
	}
	if err != nil {
		return Recovery{}, fmt.Errorf("read the attachment log: %w", err)
	}
	p := parse(data)
	l.state = p.state
	l.state.toBoot(l.cfg.Boot, l.cfg.Now())
	rec := Recovery{Torn: p.torn}
	if p.damage != "" {
		kept := fmt.Sprintf("%s.damaged-%d", l.path(), time.Now().UnixNano())
		rec.Damage = fmt.Errorf("the attachment log %s is damaged (%s); it is kept as %s", l.path(), p.damage, kept)
		if err := os.Link(l.path(), kept); err != nil {
			return rec, errors.Join(rec.Damage, err)
		}
	}
	return rec, nil
}

// State is a copy of what is durable.
func (l *Log) State() State {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.state.clone()
}

// Append hands over entries; they stay together and in order.
func (l *Log) Append(entries ...Entry) *Ticket {
	t := &Ticket{entries: entries, written: make(chan struct{}), durable: make(chan struct{})}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		t.finish(ErrClosed)
		return t
	}
	l.pending = append(l.pending, t)
	select {
	case l.wake <- struct{}{}:
	default:
	}
	return t
}

// Add records an attachment and Del its end.
func (l *Log) Add(a state.Attachment) *Ticket { return l.Append(Entry{Add: &a}) }

// Del records that the attachment is no more; its addresses cool down from now on.
func (l *Log) Del(hostLink string) *Ticket {
	return l.Append(Entry{Del: hostLink, At: l.cfg.Now().Milliseconds()})
}

// Close waits for what was handed over and closes the file.
func (l *Log) Close() error {
	l.mu.Lock()
	if l.closed {
		l.mu.Unlock()
		return nil
	}
	l.closed = true
	close(l.wake)
	l.mu.Unlock()
	<-l.done
	if l.file == nil { // no file could be begun
		return l.lock.Close()
	}
	return errors.Join(l.file.Close(), l.lock.Close())
}

func (l *Log) run() {
	defer close(l.done)
	for open := true; open; {
		_, open = <-l.wake
		l.mu.Lock()
		batch := l.pending
		l.pending = nil
		l.mu.Unlock()
		if len(batch) > 0 {
			l.commit(batch)
		}
	}
}

func (t *Ticket) finish(err error) {
	t.err = err
	close(t.durable)
	select {
	case <-t.written:
	default:
		close(t.written)
	}
}

// commit makes a batch durable. After a failure nobody knows what is on disk, so that the next batch
// starts with a new file.
func (l *Log) commit(batch []*Ticket) {
	err := l.write(batch)
	if err == nil {
		err = datasync(l.file)
	}
	if err != nil {
		l.broken = true
		err = fmt.Errorf("write the attachment log %s: %w", l.path(), err)
	} else {
		l.mu.Lock()
		for _, t := range batch {
			l.state.apply(t.entries)
		}
		l.mu.Unlock()
	}
	for _, t := range batch {
		t.finish(err)
	}
}

func (l *Log) write(batch []*Ticket) error {
	var entries []Entry
	for _, t := range batch {
		entries = append(entries, t.entries...)
	}
	line, err := formatLine(entries)
	if err != nil {
		return err
	}
	if l.broken || l.offset+int64(len(line)) > l.size {
		if err := l.rewrite(); err != nil {
			return err
		}
	}
	if _, err := l.file.WriteAt(line, l.offset); err != nil {
		return err
	}
	l.offset += int64(len(line))
	for _, t := range batch {
		close(t.written)
	}
	return nil
}
