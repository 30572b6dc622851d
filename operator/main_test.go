package main

import (
	"log/slog"
	"strings"
	"testing"
	"time"
)

func TestParse(t *testing.T) {
	c, err := parse([]string{"-leader-elect", "-cooldown=10m", "-log-level=debug", "-metrics-address=0"})
	if err != nil || !c.leaderElect || c.cooldown != 10*time.Minute || c.logLevel != slog.LevelDebug || c.metricsAddress != "0" {
		t.Errorf("parsed %+v, %v", c, err)
	}
	if _, err := parse([]string{"-cooldown=5s"}); err == nil || !strings.Contains(err.Error(), "too short") {
		t.Errorf("a cooldown shorter than a write: %v", err)
	}
	if _, err := parse([]string{"-log-level=loud"}); err == nil {
		t.Error("an unknown log level is taken")
	}
}
