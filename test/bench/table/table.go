// Package table collects the figures of a benchmark that runs ours and a rival's in turn, and
// prints them with their ratio.
package table

import (
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
)

// Row is one figure, measured several times on both sides in turn.
type Row struct {
	Name, Unit   string
	Ours, Theirs []float64
	// LessIsBetter turns the reading of the ratio: a time, not a rate.
	LessIsBetter bool
	// Target is the bound on the ratio of the medians, ours to theirs; 0 means none.
	Target float64
}

// Ratio is the median of the ratios round by round, ours to theirs: a machine that drifts between
// rounds moves both sides of each alike.
func (r Row) Ratio() float64 {
	var ratios []float64
	for i := range min(len(r.Ours), len(r.Theirs)) {
		if r.Theirs[i] != 0 {
			ratios = append(ratios, r.Ours[i]/r.Theirs[i])
		}
	}
	return Median(ratios)
}

// Held tells whether the ratio is on the right side of the target.
func (r Row) Held() bool {
	if r.Target == 0 {
		return true
	}
	if r.LessIsBetter {
		return r.Ratio() <= r.Target
	}
	return r.Ratio() >= r.Target
}

// Median of values; 0 when there are none.
func Median(values []float64) float64 { return Quantile(values, 0.5) }

// Quantile q, 0 to 1, of values by the nearest rank; 0 when there are none.
func Quantile(values []float64, q float64) float64 {
	if len(values) == 0 {
		return 0
	}
	sorted := slices.Clone(values)
	slices.Sort(sorted)
	return sorted[min(int(q*float64(len(sorted))), len(sorted)-1)]
}

// Print writes the rows under a title that names the two sides.
func Print(out io.Writer, title, ours, theirs string, rows []Row) {
	fmt.Fprintf(out, "\n%s\n", title)
	w := tabwriter.NewWriter(out, 0, 4, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(w, "figure\tunit\t%s\t%s\tratio\ttarget\theld\t\n", ours, theirs)
	for _, r := range rows {
		target, held := "", ""
		if r.Target != 0 {
			sign := ">="
			if r.LessIsBetter {
				sign = "<="
			}
			target, held = fmt.Sprintf("%s %.2f", sign, r.Target), map[bool]string{true: "yes", false: "NO"}[r.Held()]
		}
		fmt.Fprintf(w, "%s\t%s\t%.3g\t%.3g\t%.3f\t%s\t%s\t\n", r.Name, r.Unit, Median(r.Ours), Median(r.Theirs), r.Ratio(), target, held)
	}
	_ = w.Flush()
}
