"use strict";
// A mesh drawn by WebGL: plain, lit from the viewer's left, turned by dragging, with zoom.

const VERTEX_SHADER = `#version 300 es
in vec3 position;
in vec3 normal;
uniform mat3 turn;  // from the world to the camera's axes
uniform vec3 centre;
uniform vec4 lens;  // distance of the camera, 1 / tan of half the field of view, width / height, radius of what is seen
out vec3 towards;
void main() {
  vec3 seen = turn * (position - centre) - vec3(0, 0, lens.x);
  float near = max(lens.x - lens.w, 0.02 * lens.w), far = lens.x + lens.w;
  towards = turn * normal;
  float depth = (far + near) / (near - far) * seen.z + 2.0 * far * near / (near - far);
  gl_Position = vec4(lens.y / lens.z * seen.x, lens.y * seen.y, depth, -seen.z);
}`;

const FRAGMENT_SHADER = `#version 300 es
precision highp float;
in vec3 towards;
uniform vec3 colour;
out vec4 pixel;
void main() {
  vec3 normal = normalize(gl_FrontFacing ? towards : -towards);
  float key = max(dot(normal, normalize(vec3(-0.5, 0.6, 0.65))), 0.0);
  float fill = max(dot(normal, normalize(vec3(0.8, 0.0, 0.4))), 0.0);
  pixel = vec4(colour * (0.38 + 0.1 * normal.y + 0.58 * key + 0.18 * fill), 1);
}`;

/** A canvas with a mesh of these faces, three vertex indices each. Throws where there is no WebGL 2. */
class Surface {
  constructor(canvas, faces) {
    const gl = canvas.getContext("webgl2");
    if (!gl) throw new Error("no WebGL 2");
    Object.assign(this, { canvas, gl, count: faces.length, yaw: 0.36, pitch: 0.11, zoom: 1, colour: [1, 1, 1] });
    const program = gl.createProgram();
    for (const [kind, source] of [[gl.VERTEX_SHADER, VERTEX_SHADER], [gl.FRAGMENT_SHADER, FRAGMENT_SHADER]]) {
      const shader = gl.createShader(kind);
      gl.shaderSource(shader, source);
      gl.compileShader(shader);
      gl.attachShader(program, shader);
    }
    gl.linkProgram(program);
    gl.useProgram(program);
    gl.enable(gl.DEPTH_TEST);
    gl.bindBuffer(gl.ELEMENT_ARRAY_BUFFER, gl.createBuffer());
    gl.bufferData(gl.ELEMENT_ARRAY_BUFFER, faces, gl.STATIC_DRAW);
    this.buffers = ["position", "normal"].map((name) => {
      const buffer = gl.createBuffer(), place = gl.getAttribLocation(program, name);
      gl.bindBuffer(gl.ARRAY_BUFFER, buffer);
      gl.enableVertexAttribArray(place);
      gl.vertexAttribPointer(place, 3, gl.FLOAT, false, 0, 0);
      return buffer;
    });
    this.uniform = Object.fromEntries(["turn", "centre", "lens", "colour"].map((name) => [name, gl.getUniformLocation(program, name)]));
    this.listen();
    new ResizeObserver(() => this.draw()).observe(canvas);
  }

  /** Show other vertices; the first ones place the camera. */
  show({ positions, normals }) {
    const { gl } = this;
    for (const [i, values] of [positions, normals].entries()) {
      gl.bindBuffer(gl.ARRAY_BUFFER, this.buffers[i]);
      gl.bufferData(gl.ARRAY_BUFFER, values, gl.DYNAMIC_DRAW);
    }
    this.box ??= [0, 1, 2].map((axis) => {
      let [low, high] = [Infinity, -Infinity];
      for (let i = axis; i < positions.length; i += 3) [low, high] = [Math.min(low, positions[i]), Math.max(high, positions[i])];
      return { centre: (low + high) / 2, half: (high - low) / 2 };
    });
    this.draw();
  }

  /** Draw at the next frame, however often it is asked for until then. */
  draw() {
    this.waiting ??= requestAnimationFrame(() => {
      this.waiting = undefined;
      if (this.box) this.drawNow();
    });
  }

  drawNow() {
    const { gl, canvas, box, uniform } = this;
    const scale = Math.min(devicePixelRatio, 2);
    const [width, height] = [canvas.clientWidth, canvas.clientHeight].map((size) => Math.max(1, Math.round(scale * size)));
    if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
    const lens = 1 / Math.tan(0.26);
    const across = Math.max(box[1].half, Math.max(box[0].half, box[2].half) * height / width);
    const radius = 3 * Math.hypot(...box.map(({ half }) => half));
    const [cy, sy, cp, sp] = [Math.cos(this.yaw), Math.sin(this.yaw), Math.cos(this.pitch), Math.sin(this.pitch)];
    gl.viewport(0, 0, width, height);
    gl.clearColor(0, 0, 0, 0);
    gl.clear(gl.COLOR_BUFFER_BIT | gl.DEPTH_BUFFER_BIT);
    gl.uniformMatrix3fv(uniform.turn, false, [cy, -sp * sy, cp * sy, 0, cp, sp, -sy, -sp * cy, cp * cy]);
    gl.uniform3fv(uniform.centre, box.map(({ centre }) => centre));
    gl.uniform4f(uniform.lens, (1.15 * lens * across + Math.min(box[0].half, box[2].half)) / this.zoom, lens, width / height, radius);
    gl.uniform3fv(uniform.colour, this.colour);
    gl.drawElements(gl.TRIANGLES, this.count, gl.UNSIGNED_INT, 0);
    canvas.dataset.frames = 1 + Number(canvas.dataset.frames ?? 0);
  }

  turn(right, down) {
    this.yaw -= right;
    this.pitch = Math.max(-1.5, Math.min(1.5, this.pitch + down));
    this.draw();
  }

  magnify(factor) {
    this.zoom = Math.max(0.3, Math.min(8, this.zoom * factor));
    this.draw();
  }

  /** One pointer turns, two zoom; so do the arrow keys, plus and minus. The wheel zooms once the canvas was clicked. */
  listen() {
    const { canvas } = this, pointers = new Map();
    const apart = () => {
      const [a, b] = [...pointers.values()];
      return Math.max(1, Math.hypot(a.x - b.x, a.y - b.y));
    };
    canvas.addEventListener("pointerdown", ({ pointerId, clientX: x, clientY: y }) => {
      pointers.set(pointerId, { x, y });
      canvas.setPointerCapture(pointerId);
    });
    canvas.addEventListener("pointermove", ({ pointerId, clientX: x, clientY: y }) => {
      const before = pointers.get(pointerId);
      if (!before) return;
      const distance = pointers.size === 2 ? apart() : 0;
      pointers.set(pointerId, { x, y });
      if (pointers.size === 1) this.turn(0.008 * (x - before.x), 0.008 * (y - before.y));
      if (distance) this.magnify(apart() / distance);
    });
    for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, ({ pointerId }) => pointers.delete(pointerId));
    canvas.addEventListener("wheel", (event) => {
      if (document.activeElement !== canvas && !event.ctrlKey) return;
      event.preventDefault();
      this.magnify(Math.exp(-0.0015 * event.deltaY));
    }, { passive: false });
    canvas.addEventListener("keydown", (event) => {
      const turns = { ArrowLeft: [-0.1, 0], ArrowRight: [0.1, 0], ArrowUp: [0, -0.1], ArrowDown: [0, 0.1] };
      const zooms = { "+": 1.1, "=": 1.1, "-": 1 / 1.1 };
      if (turns[event.key]) this.turn(...turns[event.key]);
      else if (zooms[event.key] && !event.ctrlKey && !event.metaKey) this.magnify(zooms[event.key]);
      else return;
      event.preventDefault();
    });
  }
}
