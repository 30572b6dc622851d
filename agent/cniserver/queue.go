//go:build linux

package cniserver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weftnet/cni/wire"
)

// drainEvery is how often the queue is looked at where nobody tells of a new file.
const drainEvery = 5 * time.Second

// queue works off the DELs that the plugin has left on disk while the agent did not answer.
type queue struct {
	s     *Server
	dir   string
	watch *os.File // nil where the node has no inotify instance left
}

func (s *Server) queueDir() string { return filepath.Join(filepath.Dir(s.cfg.Socket), wire.QueueDir) }

func (s *Server) openQueue() (*queue, error) {
	q := &queue{s: s, dir: s.queueDir()}
	if err := os.MkdirAll(q.dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the queue folder: %w", err)
	}
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		s.cfg.Logger.Warn("nobody tells of queued DELs; looking now and then", "every", drainEvery, "error", err)
		return q, nil
	}
	q.watch = os.NewFile(uintptr(fd), "inotify")
	if _, err := unix.InotifyAddWatch(fd, q.dir, unix.IN_MOVED_TO|unix.IN_ONLYDIR); err != nil {
		return nil, errors.Join(fmt.Errorf("watch the queue folder %s: %w", q.dir, err), q.watch.Close())
	}
	return q, nil
}

func (q *queue) close() {
	if q.watch != nil {
		_ = q.watch.Close()
	}
}

// run works the queue off whenever something comes, until ctx ends.
func (q *queue) run(ctx context.Context) {
	if q.watch == nil {
		q.poll(ctx, drainEvery)
		return
	}
	stop := context.AfterFunc(ctx, q.close)
	defer stop()
	buf := make([]byte, 16<<10)
	for {
		if _, err := q.watch.Read(buf); err != nil {
			if ctx.Err() == nil {
				q.s.cfg.Logger.Error("watch the queue folder", "error", err)
			}
			return
		}
		q.drain(ctx)
	}
}

// poll does so without being told.
func (q *queue) poll(ctx context.Context, every time.Duration) {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			q.drain(ctx)
		}
	}
}

// drain does every DEL in the queue. One that fails stays for the next time.
func (q *queue) drain(ctx context.Context) {
	entries, err := os.ReadDir(q.dir)
	if err != nil {
		q.s.cfg.Logger.Error("read the queue folder", "error", err)
		return
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") || ctx.Err() != nil {
			continue // being written, or to be done by the next agent
		}
		if err := q.s.drainFile(ctx, filepath.Join(q.dir, e.Name())); err != nil {
			q.s.cfg.Logger.Error("carry out a queued DEL", "file", e.Name(), "error", err)
		}
	}
}

// drainOne does the queued DEL of one attachment, if there is one: it came before the ADD that waits.
func (s *Server) drainOne(ctx context.Context, containerID, ifName string) error {
	return s.drainFile(ctx, filepath.Join(s.queueDir(), wire.QueueName(containerID, ifName)))
}

// drainFile carries out one queued DEL and removes it. Nobody else may read the file in between: its
// DEL would then come a second time, perhaps after the next ADD.
func (s *Server) drainFile(ctx context.Context, path string) error {
	if _, err := os.Lstat(path); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	s.queueing.Lock()
	defer s.queueing.Unlock()
	info, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read the queue: %w", err)
	}
	if !info.Mode().IsRegular() || info.Size() > wire.HeadSize+wire.MaxHeader+wire.MaxConfig {
		return errors.Join(errors.New("not a queued DEL; it is removed"), os.RemoveAll(path))
	}
	frame, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("read the queue: %w", err)
	}
	r, err := parseQueued(frame)
	if err != nil {
		return errors.Join(fmt.Errorf("not a queued DEL; it is removed: %w", err), os.Remove(path))
	}
	if err := s.del(ctx, r.attachment.HostLink); err != nil {
		return err
	}
	s.cfg.Logger.Info("carried out a queued DEL", "container", r.ContainerID, "interface", r.IfName)
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove from the queue: %w", err)
	}
	return nil
}

func parseQueued(frame []byte) (request, error) {
	h, c, err := wire.ParseRequestHead(frame)
	if err != nil {
		return request{}, err
	}
	body := frame[wire.HeadSize:]
	if len(body) != h+c {
		return request{}, fmt.Errorf("%d bytes instead of %d", len(body), h+c)
	}
	r, fail := parseRequest(bytes.Clone(body[:h]), bytes.Clone(body[h:]))
	if fail != nil {
		return r, fail
	}
	if r.Command != "DEL" {
		return r, fmt.Errorf("%s cannot be queued", r.Command)
	}
	return r, nil
}
