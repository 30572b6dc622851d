package userspace

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"golang.zx2c4.com/wireguard/device"
)

// sayAgainAfter is how long a text is not repeated in the log. wireguard-go complains of every
// packet that it cannot send.
const sayAgainAfter = 30 * time.Second

// logger hands wireguard-go's words on, each text once in a while. wireguard-go abbreviates keys by
// itself and is never given a secret that did not come in a well-formed line; see uapi.go.
func logger(log *slog.Logger, now func() time.Time) *device.Logger {
	seen := &recent{now: now, texts: map[string]time.Time{}}
	say := func(level slog.Level) func(string, ...any) {
		return func(format string, args ...any) {
			if text := strings.TrimSpace(fmt.Sprintf(format, args...)); seen.first(text) {
				log.Log(context.Background(), level, text)
			}
		}
	}
	l := &device.Logger{Verbosef: device.DiscardLogf, Errorf: say(slog.LevelWarn)}
	if log.Enabled(context.Background(), slog.LevelDebug) {
		l.Verbosef = say(slog.LevelDebug)
	}
	return l
}

// recent remembers texts for a while.
type recent struct {
	now   func() time.Time
	mu    sync.Mutex
	texts map[string]time.Time
}

// maxRecent bounds what recent remembers.
const maxRecent = 1000

func (r *recent) first(text string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.now()
	if said, ok := r.texts[text]; ok && now.Sub(said) < sayAgainAfter {
		return false
	}
	if len(r.texts) >= maxRecent {
		clear(r.texts)
	}
	r.texts[text] = now
	return true
}
