//go:build linux

package attachlog

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/weftnet/weftnet/agent/durable"
)

// minFileSize holds about a thousand entries, in bytes.
const minFileSize = 256 << 10

// rewrite puts the state into a new file that takes the place of the old one.
func (l *Log) rewrite() error {
	l.mu.Lock()
	l.state.trim(l.cfg.Now(), l.cfg.KeepReleased)
	l.state.boot = l.cfg.Boot
	entries := l.state.entries()
	l.mu.Unlock()
	line, err := formatLine(entries)
	if err != nil {
		return err
	}
	content := append([]byte(header), line...)
	size := max(minFileSize, 4*len(content))
	file, err := replaceFile(l.path(), append(content, bytes.Repeat([]byte{0}, size-len(content))...))
	if err != nil {
		return fmt.Errorf("write a new attachment log %s: %w", l.path(), err)
	}
	if l.file != nil {
		_ = l.file.Close()
	}
	l.file, l.offset, l.size, l.broken = file, int64(len(content)), int64(size), false
	return nil
}

// replaceFile writes the content beside the path, makes it durable, and moves it there. The file
// stays open for writing.
func replaceFile(path string, content []byte) (_ *os.File, err error) {
	temp := path + ".new"
	f, err := os.OpenFile(temp, os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, f.Close(), os.Remove(temp))
		}
	}()
	if _, err := f.Write(content); err != nil {
		return nil, err
	}
	if err := f.Sync(); err != nil {
		return nil, err
	}
	if err := os.Rename(temp, path); err != nil {
		return nil, err
	}
	if err := durable.SyncDir(filepath.Dir(path)); err != nil {
		return nil, err
	}
	return f, nil
}

// datasync makes the content durable; the file's times may be lost.
func datasync(f *os.File) error {
	raw, err := f.SyscallConn()
	if err != nil {
		return err
	}
	var serr error
	err = raw.Control(func(fd uintptr) {
		for {
			if serr = syscall.Fdatasync(int(fd)); serr != syscall.EINTR {
				return
			}
		}
	})
	return errors.Join(err, serr)
}

// lockFile holds the lock until the file is closed, at the latest when the process ends.
func lockFile(path string, wait time.Duration) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the lock of the attachment log: %w", err)
	}
	const pause = 20 * time.Millisecond
	for ; ; wait -= pause {
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return f, nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) || wait <= 0 {
			break
		}
		<-time.After(pause)
	}
	if errors.Is(err, syscall.EWOULDBLOCK) {
		err = ErrLocked
	}
	return nil, errors.Join(fmt.Errorf("lock %s: %w", path, err), f.Close())
}
