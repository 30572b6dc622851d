package table

import (
	"strings"
	"testing"
)

func TestRatioIsTakenRoundByRound(t *testing.T) {
	// The machine was twice as fast in the second round; the ratio does not see it.
	row := Row{Ours: []float64{9, 18, 9.1}, Theirs: []float64{10, 20, 10}, Target: 0.95}
	if got := row.Ratio(); got != 0.9 {
		t.Errorf("Ratio() = %v, want 0.9", got)
	}
	if row.Held() {
		t.Error("0.9 held a target of at least 0.95")
	}
	row.LessIsBetter = true
	if !row.Held() {
		t.Error("0.9 did not hold a target of at most 0.95")
	}
}

func TestQuantile(t *testing.T) {
	values := []float64{4, 1, 3, 2}
	for q, want := range map[float64]float64{0: 1, 0.5: 3, 0.99: 4, 1: 4} {
		if got := Quantile(values, q); got != want {
			t.Errorf("Quantile(%v) = %v, want %v", q, got, want)
		}
	}
	if values[0] != 4 {
		t.Error("Quantile sorted its argument")
	}
	if got := Median(nil); got != 0 {
		t.Errorf("Median of nothing = %v", got)
	}
}

func TestPrintNamesBothSides(t *testing.T) {
	var out strings.Builder
	Print(&out, "title", "weftnet", "rival", []Row{{Name: "rate", Unit: "Gbit/s", Ours: []float64{1}, Theirs: []float64{2}, Target: 0.95}})
	for _, want := range []string{"title", "weftnet", "rival", "0.500", ">= 0.95", "NO"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the table lacks %q:\n%s", want, out.String())
		}
	}
}
