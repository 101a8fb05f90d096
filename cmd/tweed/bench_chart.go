package main

import (
	"bytes"
	"fmt"
	"image/color"
	"io"
	"math"
	"strconv"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/text"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgsvg"
)

// A chart compares series side by side in groups.
type chart struct {
	file    string // name
	title   string
	y       string   // what the axis shows
	groups  []string // along the x axis
	series  []series
	log     bool     // points on a logarithmic axis instead of bars
	caption []string // paragraphs below
}

type series struct {
	name   string
	colour color.Color
	values []interval // one for each group
}

// An interval is NaN where there is nothing to show.
type interval struct{ median, min, max float64 }

func (v interval) ok() bool { return !math.IsNaN(v.median) }

func (c chart) empty() bool { return len(c.series) == 0 }

const (
	chartWidth  = 640 * vg.Length(1) // points
	chartHeight = 400 * vg.Length(1)
	chartMargin = 10 * vg.Length(1)
)

// sansSVG names the fonts that have the measures of the one that gonum lays
// out with, since few readers have that.
var sansSVG = [2]string{"font-family:Liberation Sans;", "font-family:Liberation Sans,Arial,Helvetica,sans-serif;"}

func (c chart) writeSVG(w io.Writer) error {
	canvas := vgsvg.New(chartWidth, chartHeight)
	c.draw(draw.New(canvas))
	var b bytes.Buffer
	if _, err := canvas.WriteTo(&b); err != nil {
		return err
	}
	_, err := io.WriteString(w, strings.ReplaceAll(b.String(), sansSVG[0], sansSVG[1]))
	return err
}

// draw lays out, from the top: title, legend, plot, captions.
func (c chart) draw(dc draw.Canvas) {
	dc.SetColor(color.White)
	dc.Fill(dc.Rectangle.Path())
	dc = draw.Crop(dc, chartMargin, -chartMargin, chartMargin, -chartMargin)

	p := c.plot()
	top := c.drawTitle(dc)
	top = c.drawLegend(dc, top-8)
	bottom := c.drawCaptions(dc)
	dc.Min.Y, dc.Max.Y = bottom+10, top-12
	dc.Min.X = c.drawAxisLabel(dc)
	p.Draw(dc)
}

func sans(size vg.Length) text.Style {
	f := plot.DefaultFont
	f.Variant = "Sans"
	f.Size = size
	return text.Style{Color: color.Black, Font: f, Handler: plot.DefaultTextHandler}
}

// drawTitle returns how far down it came, as do the others.
func (c chart) drawTitle(dc draw.Canvas) vg.Length {
	sty := sans(15)
	y := dc.Max.Y - sty.Height(c.title)
	dc.FillText(sty, vg.Point{X: dc.Min.X, Y: y}, c.title)
	return y
}

// drawLegend puts the names of the series side by side.
func (c chart) drawLegend(dc draw.Canvas, top vg.Length) vg.Length {
	sty := sans(11)
	const box = 10
	x, y := dc.Min.X, top-box
	for _, s := range c.series {
		dc.FillPolygon(s.colour, rectangle(x, y, x+box, y+box))
		x += box + 5
		dc.FillText(sty, vg.Point{X: x, Y: y + 1}, s.name)
		x += sty.Width(s.name) + 18
	}
	return y
}

// drawAxisLabel writes upwards beside the y axis. That of gonum makes room for
// itself where the middle of a linear axis is, also on a logarithmic one.
func (c chart) drawAxisLabel(dc draw.Canvas) vg.Length {
	sty := sans(11)
	sty.Rotation, sty.XAlign = math.Pi/2, draw.XCenter
	x := dc.Min.X + sans(11).Height(c.y)
	dc.FillText(sty, vg.Point{X: x, Y: dc.Center().Y}, c.y)
	return x + 6
}

// drawCaptions returns how far up they reach.
func (c chart) drawCaptions(dc draw.Canvas) vg.Length {
	sty := sans(8)
	sty.Color = color.Gray{0x50}
	const lineHeight = 11
	var lines []string
	for _, paragraph := range c.caption {
		lines = append(lines, wrapText(paragraph, func(line string) bool { return sty.Width(line) <= dc.Max.X-dc.Min.X })...)
	}
	y := dc.Min.Y + 2
	for i := len(lines) - 1; i >= 0; i-- {
		dc.FillText(sty, vg.Point{X: dc.Min.X, Y: y}, lines[i])
		y += lineHeight
	}
	return y
}

// wrapText breaks a text into lines that fit: between words, and inside a word
// only where that alone is too long.
func wrapText(s string, fits func(string) bool) []string {
	var lines []string
	line := ""
	for word := range strings.FieldsSeq(s) {
		if line != "" && fits(line+" "+word) {
			line += " " + word
			continue
		}
		if line != "" {
			lines = append(lines, line)
		}
		line = ""
		for _, letter := range word {
			if line != "" && !fits(line+string(letter)) {
				lines = append(lines, line)
				line = ""
			}
			line += string(letter)
		}
	}
	return append(lines, line)
}

// plot makes axes and marks.
func (c chart) plot() *plot.Plot {
	p := plot.New()
	p.X.Tick.Label.Font, p.Y.Tick.Label.Font = sans(11).Font, sans(10).Font
	p.NominalX(c.groups...)
	p.X.Min, p.X.Max = -0.5, float64(len(c.groups))-0.5
	p.X.Padding, p.Y.Padding = 4, 0
	p.Y.Min, p.Y.Max = c.span()
	p.Y.Tick.Marker = plot.TickerFunc(linearTicks)
	if c.log {
		p.Y.Scale, p.Y.Tick.Marker = plot.LogScale{}, plot.TickerFunc(logTicks)
	}
	grid := plotter.NewGrid()
	grid.Vertical.Width = 0
	grid.Horizontal.Color = color.Gray{0xd8}
	p.Add(grid, marks{c})
	return p
}

// span is the range of the y axis, with room for the labels above the marks.
func (c chart) span() (lowest, highest float64) {
	lowest, highest = math.Inf(1), 0
	for _, s := range c.series {
		for _, v := range s.values {
			if v.ok() {
				lowest, highest = min(lowest, v.min), max(highest, v.max)
			}
		}
	}
	switch {
	case c.log:
		lowest = max(lowest, 0.01) // of a clock's resolution
		return lowest / 1.3, max(highest, lowest) * 1.5
	case highest == 0:
		return 0, 1
	}
	return 0, highest * 1.1
}

// linearTicks labels four to nine multiples of 1, 2 or 5 of a decade, from
// zero on.
func linearTicks(_, high float64) []plot.Tick {
	step := math.Pow(10, math.Floor(math.Log10(high)))
	for _, finer := range []float64{2, 2.5, 2} {
		if high/step >= 3.5 {
			break
		}
		step /= finer
	}
	var ticks []plot.Tick
	for i := 0; float64(i)*step <= high; i++ {
		v := float64(i) * step
		ticks = append(ticks, plot.Tick{Value: v, Label: strconv.FormatFloat(v, 'g', 6, 64)})
	}
	return ticks
}

// logTicks labels 1, 2 and 5 of each decade.
func logTicks(low, high float64) []plot.Tick {
	var ticks []plot.Tick
	for decade := math.Pow(10, math.Floor(math.Log10(low))); decade <= high; decade *= 10 {
		for digit := 1.0; digit < 10; digit++ {
			v := digit * decade
			if v < low || v > high {
				continue
			}
			t := plot.Tick{Value: v}
			if digit == 1 || digit == 2 || digit == 5 {
				t.Label = fmt.Sprintf("%g", v)
			}
			ticks = append(ticks, t)
		}
	}
	return ticks
}

func rectangle(x0, y0, x1, y1 vg.Length) []vg.Point {
	return []vg.Point{{X: x0, Y: y0}, {X: x1, Y: y0}, {X: x1, Y: y1}, {X: x0, Y: y1}}
}
