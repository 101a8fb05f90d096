package flags

import "strings"

// Closest returns the candidate that takes the fewest edits to reach, or "" if
// all take more than three, or as many as it has letters of its own, to which
// the prefix of our variables does not count.
func Closest(word string, candidates []string) string {
	best, least := "", 4
	for _, c := range candidates {
		if d := editDistance(word, c); d < least && d < len(strings.TrimPrefix(c, envPrefix)) {
			best, least = c, d
		}
	}
	return best
}

// editDistance is the Levenshtein distance in bytes.
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j+1]+1, row[j]+1)
		}
	}
	return row[len(b)]
}
