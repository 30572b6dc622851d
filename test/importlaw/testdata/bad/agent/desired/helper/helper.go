package helper

import (
	_ "log"
	"log/slog"
	clock "time"
)

// Age reads the clock behind the back of whoever calls it.
func Age(since clock.Time) clock.Duration {
	slog.Info("age")
	return clock.Since(since)
}
